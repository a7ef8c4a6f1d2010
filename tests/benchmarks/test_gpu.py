"""What the measurement on a GPU keeps when something fails, and what it calls a failure. The GPU here is one in memory."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from crossrt.__main__ import main
from crossrt.engine.bundle.bundle import Bundle
from crossrt.engine.cross_encoder import CrossEncoder
from crossrt.engine.hardware.gpus import gpus
from crossrt.export.bundle.manifest import write_manifest
from tests.export.tensorrt.simulated_machine import GPU, install_simulated_machine

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def texts(tmp_path: Path) -> list[str]:
    """Words that name three queries with twelve passages each."""
    words = "berlin paris river mountain light weather climate water sun salt eggs green".split()
    passages = {f"p{number}": " ".join(words[: number % 12 + 1]) for number in range(24)}
    run = [f"q{query} Q0 p{query * 6 + rank} {rank + 1} {-rank} run" for query in range(3) for rank in range(12)]
    (tmp_path / "queries.tsv").write_text("".join(f"q{number}\twhere is {words[number]}\n" for number in range(3)))
    (tmp_path / "passages.tsv").write_text("".join(f"{name}\t{text}\n" for name, text in passages.items()))
    (tmp_path / "run.trec").write_text("\n".join(run) + "\n")
    files = {"queries": "queries.tsv", "passages": "passages.tsv", "run": "run.trec"}
    return [word for option, file in files.items() for word in (f"--{option}", str(tmp_path / file))]


@pytest.fixture
def two_precisions(bundle: Path, tmp_path: Path) -> Path:
    """The test bundle with its FP32 model as FP16 too."""
    copy = Bundle.open(shutil.copytree(bundle, tmp_path / "two"))
    shutil.copy(copy.path / "onnx/model.onnx", copy.path / "onnx/model_fp16.onnx")
    models = {**copy.manifest.models, "fp16": replace(copy.manifest.models["fp32"], file="onnx/model_fp16.onnx")}
    write_manifest(copy.path, replace(copy.manifest, models=models))
    return copy.path


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, load_benchmark: Any) -> dict[str, Any]:
    """A GPU in memory, and engines built in this process."""
    found = install_simulated_machine(monkeypatch, tmp_path / "cache")
    found["commands"] = []

    def run(command: list[str], **_: Any) -> Any:
        if command[0] == "nvidia-smi":
            raise OSError("not here")
        found["commands"].append(command[3:])
        monkeypatch.setattr(sys, "argv", ["crossrt", *command[3:]])
        with pytest.raises(SystemExit) as ended:
            main()
        return subprocess.CompletedProcess(command, int(ended.value.code or 0), stdout="last words\n")

    module: ModuleType = load_benchmark("gpu")
    processes = ModuleType("subprocess")
    processes.__dict__.update({**subprocess.__dict__, "run": run})
    monkeypatch.setattr(module, "subprocess", processes)
    monkeypatch.setattr(module, "gpus", lambda: (GPU,))
    shapes: ModuleType = load_benchmark("gpu_shapes")
    monkeypatch.setattr(shapes, "ROWS", (1, 8))
    monkeypatch.setattr(shapes, "REPEATS", 2)

    def measure(*words: Any) -> tuple[int, list[dict[str, Any]]]:
        """Run it; return the exit status and what the result says of each bundle."""
        out = tmp_path / "gpu.json"
        status = module.main([*map(str, words), "--rounds", "1", "--out", str(out)])
        found["result"] = json.loads(out.read_text())
        return status, found["result"]["bundles"]

    found["measure"] = measure
    return found


def by_name(row: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {system["system"]: system for system in row["systems"]}


def test_engines_are_built_and_all_that_runs_is_compared_and_timed(
    machine: dict[str, Any], two_precisions: Path, bundle: Path, texts: list[str]
) -> None:
    before = {path.name for path in two_precisions.iterdir()}
    status, (first, second) = machine["measure"](
        two_precisions, bundle, *texts, "--max-length", 48, "--engine-options", "--tokens 512"
    )
    assert status == 0
    assert {path.name for path in two_precisions.iterdir()} == before, "engines go into a copy"
    assert " ".join(machine["commands"][1][2:]) == "--precision fp16 --device cuda:0 --max-length 48 --tokens 512"
    assert machine["result"]["device"]["name"] == GPU.name
    assert {"python", "numpy", "torch", "tensorrt"} < set(machine["result"]["versions"])
    assert [build["precision"] for build in first["builds"]] == ["fp32", "fp16"]
    assert [build["precision"] for build in second["builds"]] == ["fp32"]
    assert first["engines"][0]["profiles"][-1]["max"] == [10, 48]
    rows = by_name(first)
    assert 0 <= rows["crossrt FP32, tensorrt"]["padding"]["1 x 10"]["padding"] < 1
    assert rows["crossrt FP32, tensorrt"]["shapes"][0].keys() == {"rows", "tokens", "ms", "device_ms"}
    for name in ("crossrt FP32, tensorrt", "crossrt FP16, tensorrt", "crossrt FP16, tensorrt, without graphs"):
        row = rows[name]
        assert row["passed"]
        assert set(row["ms_p50_p99"]) == {"1 x 1", "1 x 10", "1 x 100", "1 x 100, prepared", "all", "all, model alone"}
        assert row["pairs_per_s"]["all"] > 0
        assert row["model_tflops"] >= 0
    assert "int8" in rows["crossrt INT8, tensorrt"]["failed"]


def test_what_is_said_to_go_without_graphs_does(
    machine: dict[str, Any], two_precisions: Path, texts: list[str]
) -> None:
    assert machine["measure"](two_precisions, *texts)[0] == 0
    graphs = [executor.cuda.log.count("launch") for executor in machine["opened"][-6:]]
    for fp32, fp16, without in (graphs[:3], graphs[3:]):  # the models, then what measures shapes
        assert min(fp32, fp16) > 0
        assert without == 0


def test_other_scores_than_allowed_are_a_failure(machine: dict[str, Any], bundle: Path, texts: list[str]) -> None:
    machine["error"] = 1e-3  # an engine may differ by that, FP32 of a bundle may not
    status, [row] = machine["measure"](bundle, *texts)
    assert status == 1
    [system] = [system for system in row["systems"] if "failed" not in system]
    assert system["passed"] is False
    assert system["max_abs_diff"] == pytest.approx(1e-3, rel=0.1)
    assert system["allowed"] == 1e-4


def test_a_system_that_fails_on_the_way_keeps_what_was_measured(
    machine: dict[str, Any], two_precisions: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: Any, **__: Any) -> Any:
        raise RuntimeError("the device is lost\nin its second line")

    monkeypatch.setattr(CrossEncoder, "logits_from", lost)
    status, [row] = machine["measure"](two_precisions, *texts)
    assert status == 1
    system = by_name(row)["crossrt FP16, tensorrt"]
    assert system["failed"] == "in 1 x 100, prepared: RuntimeError: the device is lost\nin its second line"
    assert "all" in system["pairs_per_s"]


def test_systems_take_turns_at_all_pieces_and_a_failure_ends_one(load_benchmark: Any) -> None:
    log: list[str] = []

    def fail() -> None:
        log.append("b")
        raise ValueError("no")

    benchmark = load_benchmark("gpu")
    works = {"a": [lambda: log.append("a")] * 2, "b": [fail] * 2, "c": [lambda: log.append("c")] * 2}
    found = benchmark.in_turns(works, 3, {"a": 4, "b": 2, "c": 2})
    assert "".join(log[:13]) == "aaaaaabccaacc", "who needs more passes to warm up begins earlier"
    assert found["b"] == "ValueError: no"
    assert [len(found[name]) for name in "ac"] == [6, 6]
    assert [log.count(name) for name in "abc"] == [2 * (4 + 3), 1, 2 * (2 + 3)]


def test_a_reference_of_another_length_is_not_compared(
    machine: dict[str, Any], bundle: Path, texts: list[str], tmp_path: Path
) -> None:
    np.savez(tmp_path / "reference.npz", *[np.zeros(12)] * 3, max_length=64)  # type: ignore[arg-type]
    words = [bundle, *texts, "--reference", tmp_path / "reference.npz"]
    status, [row] = machine["measure"](*words, "--max-length", 32)
    assert status == 1
    assert "was written with max_length=64, and this run has 32" in row["reference"]
    [system] = [system for system in row["systems"] if "failed" not in system]
    assert system["passed"] is None
    assert system["pairs_per_s"], "how fast it is, is known all the same"
    status, [row] = machine["measure"](*words)
    assert status == 1
    assert row["reference"] == "PyTorch FP32, reference.npz"
    assert [system["passed"] for system in row["systems"] if "failed" not in system] == [False], "no score is 0"


def test_an_engine_that_takes_too_long_is_a_reason(
    machine: dict[str, Any], bundle: Path, texts: list[str], load_benchmark: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], **options: Any) -> Any:
        raise subprocess.TimeoutExpired(command, options.get("timeout", 0))

    monkeypatch.setattr(load_benchmark("gpu").subprocess, "run", run)
    monkeypatch.setattr(load_benchmark("gpu"), "device_facts", lambda device: {})
    status, [row] = machine["measure"](bundle, *texts, "--engine-seconds", 7)
    assert status == 1
    assert row["builds"][0]["failed"].startswith("not done after 7 s")


def test_the_tests_for_gpus_need_little_and_are_no_success_where_none_was_executed() -> None:
    if gpus():
        pytest.skip("there is a GPU here")
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'onnx', 'onnxruntime', 'openvino', 'ir_measures', 'scipy']))\n"
        "import pytest; sys.exit(pytest.main(['tests/gpu', '-m', 'gpu', '-p', 'no:cacheprovider']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, env=with_root()
    )
    assert done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED
    assert " skipped" in done.stdout


def with_root() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}


def test_where_nothing_can_run_the_check_says_why_and_fails(bundle: Path, texts: list[str], tmp_path: Path) -> None:
    pytest.importorskip("cuda.bindings", reason="without cuda-bindings that is the reason why nothing runs")
    if gpus():
        pytest.skip("there is a GPU here")
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    (tmp_path / "python").chmod(0o755)
    command = [str(REPOSITORY / "scripts/gpu_check"), "results", str(bundle), *texts, "--rounds", "1"]
    environment = {**os.environ, "PYTHON": "./python"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode != 0
    assert "0 of 12 systems ran" in done.stdout
    [row] = json.loads((tmp_path / "results/gpu.json").read_text())["bundles"]
    assert all("no NVIDIA driver" in system["failed"] for system in row["systems"])
    assert "there is no cuda:0 here" in row["builds"][0]["failed"]
    for backend in ("tensorrt", "native", "onnxruntime"):
        tests = (tmp_path / f"results/gpu-tests-{backend}.xml").read_text()
        assert 'errors="0"' in tests
        assert "no GPU" in tests
