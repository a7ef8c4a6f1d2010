"""How a cluster is divided among actors, and what is said of one that is not there. Ray itself is not needed."""

import socket
from typing import Any

import pytest

from crossrt.distributed.cluster import Pool, _host_and_port, _reach, pool_in
from crossrt.distributed.progress import Progress
from crossrt.engine.errors import BackendError, OptionError


class Ray:
    def __init__(self, *resources: dict[str, float]) -> None:
        self._resources = resources

    def nodes(self) -> list[dict[str, Any]]:
        dead = {"Alive": False, "Resources": {"CPU": 1000.0, "GPU": 1000.0}}
        return [dead, *({"Alive": True, "Resources": each} for each in self._resources)]


@pytest.mark.parametrize(
    ("nodes", "wanted", "found"),
    [
        ([{"CPU": 8}, {"CPU": 8}], {}, Pool(actors=2, threads=8, gpus=0)),
        ([{"CPU": 4}, {"CPU": 9}, {}], {}, Pool(actors=3, threads=4, gpus=0)),
        ([{"CPU": 8}, {"CPU": 8}], {"threads": 3}, Pool(actors=4, threads=3, gpus=0)),
        ([{"CPU": 8}], {"threads": 2, "actors": 3}, Pool(actors=3, threads=2, gpus=0)),
        ([{"CPU": 8}], {"threads": 8, "actors": 3}, Pool(actors=1, threads=8, gpus=0)),
        ([{"CPU": 16, "GPU": 4}, {"CPU": 64}], {"gpus": 1}, Pool(actors=4, threads=4, gpus=1)),
    ],
)
def test_as_many_actors_as_fit(nodes: Any, wanted: Any, found: Pool) -> None:
    assert pool_in(Ray(*nodes), **{"actors": None, "threads": None, "gpus": 0, **wanted}) == found


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"gpus": 1}, "was to get 1 GPUs, and the nodes of this cluster have 0 at most"),
        ({"threads": 9}, "was to get 9 processors, and the nodes of this cluster have 8 at most"),
    ],
)
def test_more_than_any_node_has_is_refused(wanted: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        pool_in(Ray({"CPU": 8}, {"CPU": 2}), **{"actors": None, "threads": None, "gpus": 0, **wanted})


def test_nodes_without_processors_are_refused() -> None:
    with pytest.raises(OptionError, match="was to get 1 processors, and the nodes of this cluster have 0 at most"):
        pool_in(Ray({"CPU": 0}, {}), actors=None, threads=None, gpus=0)


def test_an_address_where_nobody_listens_is_named_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        _reach("127.0.0.1", port)
    with pytest.raises(BackendError, match=f"no Ray answers at 127.0.0.1:{port}"):
        _reach("127.0.0.1", port)


@pytest.mark.parametrize("address", ["ray://head:10001", "head", "head:port"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(OptionError, match="give local, auto, or host:port"):
        _host_and_port(address)


def test_an_address_is_a_host_and_a_port_or_none() -> None:
    assert _host_and_port("local") is None
    assert _host_and_port("auto") is None
    assert _host_and_port("head:6379") == ("head", 6379)
    assert _host_and_port("[::1]:6379") == ("::1", 6379)


def test_progress_tells_speed_and_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crossrt.distributed.progress.INTERVAL", 0.0)
    with Progress(5000, 1000, bar=False, lines=True) as progress:
        progress.add(1000)
        assert progress.line(2.0) == "2,000 of 5,000 pairs, 500 pairs/s, 00:06 left"
    assert "2,000 of 5,000 pairs" in capsys.readouterr().err
