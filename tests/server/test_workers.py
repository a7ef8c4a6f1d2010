"""Several processes accept from one socket: one that is killed comes back, and metrics are those of all."""

import errno
import json
import multiprocessing
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from crossrt.server.models.model_settings import ModelSettings
from crossrt.server.settings import Settings
from crossrt.server.workers import _Workers

from .conftest import Served, Start, eventually

BODY = {"query": "where is the river", "texts": ["berlin is a city", "the river is long"]}


def workers(server: Served) -> list[int]:
    """The processes of the workers, without Python's resource tracker."""
    children = (
        Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text(encoding="utf-8").split()
    )
    return [int(each) for each in children if b"spawn_main" in Path(f"/proc/{each}/cmdline").read_bytes()]


@pytest.fixture(scope="module")
def server(start_for_all: Start, bundle: Path) -> Served:
    server = start_for_all("--device", "cpu", "--workers", "2", bundle=bundle)
    eventually(lambda: server.log.count("serving on") == 2)
    return server


def test_metrics_count_the_requests_of_all_workers(server: Served) -> None:
    for _ in range(20):
        assert server.post("/rerank", BODY).status == 200
    assert eventually(lambda: server.metric('crossrt_requests_total{path="/rerank",status="200"}') == 20)
    assert server.metric("crossrt_request_texts_sum") == 40


def test_the_others_go_on_when_a_worker_is_killed_and_it_comes_back(server: Served) -> None:
    before = workers(server)
    assert len(before) == 2
    failures: list[Any] = []
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            try:
                status = server.post("/rerank", BODY).status
                if status != 200:
                    failures.append(status)
            except OSError:  # the connections that the killed worker had are broken; everyone else is served
                failures.append("broken")

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    os.kill(before[0], signal.SIGKILL)
    after = eventually(lambda: (found := workers(server)) and len(found) == 2 and before[0] not in found and found)
    eventually(lambda: server.log.count("serving on") == 3)
    stop.set()
    for thread in threads:
        thread.join()
    assert before[1] in after
    assert set(failures) <= {"broken"}
    assert len(failures) <= 4
    assert server.post("/rerank", BODY).status == 200


def test_a_reload_reaches_all_workers_and_sigterm_ends_them_with_status_0(start: Start, bundle: Path) -> None:
    server = start("--device", "cpu", "--workers", "2", "--log-format", "json", bundle=bundle)
    eventually(lambda: server.log.count("serving on") == 2)
    server.signal(signal.SIGHUP)
    eventually(lambda: server.log.count("reload: ") == 2)
    running = workers(server)
    assert server.end() == 0
    assert not any(Path(f"/proc/{each}").exists() for each in running)
    assert all(json.loads(line) for line in server.lines)


def test_nobody_takes_connections_any_more_while_workers_finish(start: Start, bundle: Path) -> None:
    server = start("--device", "cpu", "--workers", "2", "--shutdown-timeout", "20", bundle=bundle)
    eventually(lambda: server.log.count("serving on") == 2)
    body = json.dumps(BODY).encode()
    with server.connect() as connection:
        connection.sendall(b"POST /rerank HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n" % len(body) + body[:9])
        eventually(lambda: server.metric("crossrt_requests_in_progress") >= 2)  # this one, and that for the metrics
        server.signal(signal.SIGTERM)

        def refused() -> bool:
            try:
                server.connect().close()
            except ConnectionRefusedError:
                return True
            return False

        eventually(refused, 10)
        assert server.process.poll() is None
        connection.sendall(body[9:])
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")
    assert server.process.wait(20) == 0


def test_a_request_to_reload_reaches_all_workers_before_it_is_answered(
    start: Start, bundle: Path, make_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    place, keys = tmp_path / "served", tmp_path / "keys"
    shutil.copytree(bundle, place)
    keys.write_text("first\nrevoked\n")
    server = start("--device", "cpu", "--workers", "2", "--api-keys", str(keys), bundle=place)
    eventually(lambda: server.log.count("serving on") == 2)

    def answers(key: str) -> set[tuple[int, bytes]]:
        found = (server.post("/rerank", BODY, {"x-api-key": key}) for _ in range(60))
        return {(answer.status, answer.body) for answer in found}

    ((status, before),) = answers("revoked")
    assert status == 200
    keys.write_text("first\n")
    place.rename(tmp_path / "old")
    shutil.copytree(make_bundle(seed=7), place)
    done = server.post("/admin/reload", None, {"x-api-key": "first"})
    assert (done.status, done.json) == (200, {"served": "opened"})
    assert {status for status, _ in answers("revoked")} == {401}
    ((status, after),) = answers("first")
    assert status == 200
    assert after != before
    assert server.log.count("reload: served opened") == 2

    shutil.rmtree(place)
    done = server.post("/admin/reload", None, {"x-api-key": "first"})
    assert done.status == 503
    assert done.json["served"].startswith("kept: ")
    assert answers("first") == {(200, after)}


def test_a_worker_that_cannot_be_replaced_is_tried_again_while_the_others_go_on(
    start: Start, bundle: Path, tmp_path: Path
) -> None:
    place = tmp_path / "served"
    shutil.copytree(bundle, place)
    server = start("--device", "cpu", "--workers", "2", bundle=place)
    eventually(lambda: server.log.count("serving on") == 2)
    killed, other = workers(server)
    place.rename(tmp_path / "aside")
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: server.log.count("a worker could not start, status 1; trying again in") == 2, 60)
    assert "trying again in 1 s" in server.log
    assert "trying again in 2 s" in server.log
    assert "Traceback" not in server.log
    assert server.post("/rerank", BODY).status == 200
    (tmp_path / "aside").rename(place)
    eventually(lambda: server.log.count("serving on") == 3, 60)
    after = workers(server)
    assert len(after) == 2
    assert other in after
    assert server.end() == 0


def test_a_worker_for_which_there_is_no_process_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ends: list[Any] = []

    def pipe() -> Any:
        ends.extend(made := multiprocessing.Pipe())
        return made

    def start() -> None:  # where the system's limit of processes is reached
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    context = SimpleNamespace(Pipe=pipe, Process=lambda **_: SimpleNamespace(start=start))
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: context)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with socket.socket() as listening:
        supervisor = _Workers(Settings(models=(ModelSettings(name="a", bundle="b"),), workers=2), listening)
        supervisor._start(1)
        assert list(supervisor._due) == [1]
        assert len(ends) == 2
        assert all(end.closed for end in ends)
        assert "Resource temporarily unavailable; trying again in 1 s" in caplog.text
        assert supervisor.run(), "no worker could start"
    assert "no worker could start; ending" in caplog.text


def test_a_server_of_which_no_worker_can_start_ends(start: Start, tmp_path: Path) -> None:
    server = start("--workers", "2", bundle=tmp_path / "missing")
    assert server.process.wait(60) == 1
    assert "no worker could start; ending" in server.log
    assert "is not a directory that exists" in server.log
