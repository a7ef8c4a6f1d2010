"""The application on a local Ray Serve: the answers of `crossrt serve`, and replicas by the tokens that wait."""

import json
import os
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray.serve", reason="crossrt[ray] is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")

from crossrt import CrossEncoder
from crossrt.distributed.serve import application
from crossrt.engine.errors import OptionError
from crossrt.server.models.model_settings import ModelSettings
from crossrt.server.settings import Settings

TEXTS = ["K2 is high", "Berlin is a city", "gnushogi plays chess"]


@pytest.fixture(scope="module")
def address(demo_bundle: Path) -> Iterator[str]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray import serve

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=100 << 20, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    models = tuple(ModelSettings(name=name, bundle=str(demo_bundle)) for name in ("small", "large"))
    delays = {"upscale_delay_s": 0.5, "downscale_delay_s": 0.5, "metrics_interval_s": 0.2, "look_back_period_s": 1.0}
    settings = Settings(models=models, log_requests="none")
    serve.run(application(settings, max_replicas=2, tokens_per_replica=2000, autoscaling=delays), name="crossrt")
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()
    ray.shutdown()


def post(address: str, body: Any, **headers: str) -> Any:
    request = urllib.request.Request(f"{address}/rerank", data=json.dumps(body).encode(), headers=headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def test_the_answers_are_those_of_the_server(address: str, demo_bundle: Path) -> None:
    with CrossEncoder(demo_bundle, device="cpu") as model:
        expected = {each["corpus_id"]: each["score"] for each in model.rank("how tall is k2", TEXTS)}
    body = {"query": "how tall is k2", "texts": TEXTS, "raw_scores": True}
    for name in ("small", "large", "small"):
        found = post(address, body, serve_multiplexed_model_id=name)
        assert {each["index"]: each["score"] for each in found} == pytest.approx(expected, abs=1e-6)
    answer = post(address, {"query": "how tall is k2", "documents": TEXTS, "model": "large"})
    assert answer["model"] == "large"
    with urllib.request.urlopen(f"{address}/health", timeout=60) as health:
        assert health.status == 200


def test_there_are_more_replicas_while_many_tokens_wait(address: str) -> None:
    from ray import serve

    def replicas() -> int:
        return sum(serve.status().applications["crossrt"].deployments["crossrt"].replica_states.values())

    def load() -> None:
        while not stop.is_set():
            post(address, {"query": "how tall is k2", "texts": TEXTS * 100})

    stop = threading.Event()
    clients = [threading.Thread(target=load) for _ in range(8)]
    for client in clients:
        client.start()
    try:
        wait_for(lambda: replicas() == 2)
    finally:
        stop.set()
        for client in clients:
            client.join()
    wait_for(lambda: replicas() == 1)


def wait_for(condition: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_numbers_below_one_are_refused() -> None:
    settings = Settings(models=(ModelSettings(name="a", bundle="b"),))
    with pytest.raises(OptionError, match="threads=0: give 1 or more"):
        application(settings, threads=0)


@pytest.mark.parametrize("option", [{"threads": 4}, {"device": "cuda:1"}, {"devices": ["cuda:0"]}])
def test_what_the_replica_decides_is_refused_for_a_model(option: dict[str, Any]) -> None:
    settings = Settings(models=(ModelSettings(name="a", bundle="b", options=option),))
    with pytest.raises(
        OptionError, match=f"the model a has the option '{next(iter(option))}': give gpus= and threads="
    ):
        application(settings)
