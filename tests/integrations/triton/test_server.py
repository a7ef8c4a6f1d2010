"""A model in the Triton that nvidia-pytriton carries: the scores of `predict`, merged requests, and errors that stay apart."""

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

WHY = "Triton is not installed: run scripts/integrations triton"
if importlib.util.find_spec("pytriton") is None:
    pytest.skip(WHY, allow_module_level=True)
from tritonclient import grpc, http
from tritonclient.utils import InferenceServerException

from crossrt import Bundle, CrossEncoder
from crossrt.integrations.triton.config import Instances
from crossrt.integrations.triton.repository import write_onnxruntime_model, write_python_model

REPOSITORY = Path(__file__).resolve().parents[3]
PAGE = REPOSITORY / "docs/triton.md"
QUERY = "play chess against the computer"
NAME = "demo-bundle"


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def started(models: Path, log: Path, web: int, calls: int) -> subprocess.Popen[bytes]:
    """Start Triton on the loopback interface, with ports for HTTP and gRPC."""
    spec = importlib.util.find_spec("pytriton")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    carried = Path(spec.submodule_search_locations[0]) / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = carried / "backends/python/triton_python_backend_stub"
    if not stub.exists():
        shutil.copy(carried / "python_backend_stubs" / version / stub.name, stub)
    command = [carried / "bin/tritonserver", f"--model-repository={models}"]
    command += [
        f"--backend-directory={carried / 'backends'}",
        "--allow-metrics=false",
        "--disable-auto-complete-config",
    ]
    command += ["--http-address=127.0.0.1", f"--http-port={web}", "--grpc-address=127.0.0.1", f"--grpc-port={calls}"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # of the Python that the backend takes
    with log.open("w", encoding="utf-8") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, "PATH": path})


@pytest.fixture(scope="module")
def addresses(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Start Triton with a model of the demo bundle, and return its addresses for HTTP and gRPC."""
    folder = tmp_path_factory.mktemp("triton")
    write_python_model(Bundle.open(demo_bundle), folder / "models", NAME, Instances(), {})
    web, calls = free_ports(2)
    server = started(folder / "models", folder / "log", web, calls)
    try:
        wait_for(f"127.0.0.1:{calls}", server, folder / "log")
        yield f"127.0.0.1:{web}", f"127.0.0.1:{calls}"
    finally:
        server.terminate()
        server.wait(60)


def wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    with grpc.InferenceServerClient(address) as client:
        for _ in range(240):
            try:
                if client.is_model_ready(NAME):
                    return
            except InferenceServerException:
                assert server.poll() is None, log.read_text(encoding="utf-8")
            time.sleep(0.25)
    pytest.fail(f"the model is not ready after a minute: {log.read_text(encoding='utf-8')}")


@pytest.fixture
def client(addresses: tuple[str, str]) -> Iterator[Any]:
    with grpc.InferenceServerClient(addresses[1]) as opened:
        yield opened


def asked(client: Any, kind: Any, queries: list[Any], passages: list[list[Any]]) -> Any:
    """Return the scores of rows of passages; `kind` is the module of the client."""
    inputs = []
    for name, rows in (("QUERY", [[query] for query in queries]), ("PASSAGES", passages)):
        encoded = [[each.encode() if isinstance(each, str) else each for each in row] for row in rows]
        array = np.array(encoded, dtype=object).reshape(len(rows), -1)
        inputs.append(kind.InferInput(name, list(array.shape), "BYTES"))
        inputs[-1].set_data_from_numpy(array)
    return client.infer(NAME, inputs).as_numpy("SCORES")


def test_scores_are_those_of_predict_to_the_bit(
    addresses: tuple[str, str], client: Any, demo_model: CrossEncoder, texts: list[str]
) -> None:
    wanted = demo_model.predict([(QUERY, text) for text in texts])
    with http.InferenceServerClient(addresses[0]) as web:
        for found in (asked(client, grpc, [QUERY], [texts]), asked(web, http, [QUERY], [texts])):
            assert (found.shape, found.dtype) == ((1, len(texts)), np.float32)
            assert found[0].tolist() == wanted.tolist()


def test_rows_have_queries_of_their_own(client: Any, demo_model: CrossEncoder, texts: list[str]) -> None:
    found = asked(client, grpc, [QUERY, "a compiler"], [texts[:6], texts[6:]])
    pairs = [(QUERY, text) for text in texts[:6]] + [("a compiler", text) for text in texts[6:]]
    assert found.ravel().tolist() == demo_model.predict(pairs).tolist()


@pytest.mark.parametrize(
    ("queries", "passages", "message"),
    [
        ([QUERY], [["fine", b"caf\xe9"]], r"PASSAGES\[0, 1\] is not UTF-8"),
        ([QUERY], [[]], r"PASSAGES is \[1, 0\]; give at least one passage"),
        ([QUERY, QUERY], [["fine"]], "batch size does not match"),
        ([QUERY] * 65, [["fine"]] * 65, "batch-size must be <= 64"),
    ],
    ids=["not UTF-8", "no passages", "one row of two", "too many rows"],
)
def test_a_bad_request_is_refused_in_words(
    client: Any, queries: list[Any], passages: list[list[Any]], message: str
) -> None:
    with pytest.raises(InferenceServerException, match=message):
        asked(client, grpc, queries, passages)


def statistics(client: Any) -> tuple[int, int]:
    """Return how many rows were scored, and in how many executions."""
    [model] = client.get_inference_statistics(NAME).model_stats
    return model.inference_count, model.execution_count


def test_lists_that_wait_are_scored_together_and_a_bad_one_alone_fails(
    client: Any, demo_model: CrossEncoder, texts: list[str]
) -> None:
    lists = [texts[: 1 + number % 12] for number in range(96)]
    lists[50] = [b"caf\xe9"]  # type: ignore[list-item]
    before = statistics(client)

    def ask(passages: list[str]) -> Any:
        try:
            return asked(client, grpc, [QUERY], [passages])[0].tolist()
        except InferenceServerException as error:
            return error.message()

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(ask, lists))
    rows, executions = np.subtract(statistics(client), before)
    assert executions < 48, executions
    assert rows == 96
    assert "PASSAGES[0, 0] is not UTF-8" in found[50]
    wanted = demo_model.predict([(QUERY, text) for text in texts]).tolist()
    assert [each for place, each in enumerate(found) if place != 50] == [
        wanted[: len(each)] for place, each in enumerate(lists) if place != 50
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("", ""), "unable to find backend library for backend 'onnxruntime'"),
        (('source_input: "token_ids"', 'source_input: "tokens"'), "unknown source input name 'tokens'"),
    ],
    ids=["as written", "altered"],
)
def test_triton_accepts_the_configuration_for_onnxruntime_and_lacks_the_backend(
    demo_bundle: Path, tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    """An altered configuration is refused earlier, so Triton has checked the one that is written."""
    folder = write_onnxruntime_model(Bundle.open(demo_bundle), tmp_path / "models", "m", Instances())
    config = folder / "config.pbtxt"
    config.write_text(config.read_text().replace(*change))
    server = started(tmp_path / "models", tmp_path / "log", *free_ports(2))
    assert server.wait(60) == 1
    assert message in (tmp_path / "log").read_text()


def test_the_example_prints_what_the_page_says(addresses: tuple[str, str], tmp_path: Path) -> None:
    code, printed = re.findall(r"```(?:python|text)\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)[:2]
    (tmp_path / "demo").symlink_to(REPOSITORY / "demo")
    code = code.replace("localhost:8001", addresses[1])
    child = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    assert child.stdout == printed, child.stdout
