"""Servers as processes of their own, on free ports of the loopback interface."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

for package in ("msgspec", "uvicorn", "httptools", "starlette", "prometheus_client"):
    pytest.importorskip(package, reason="crossrt[serve] is not installed")

REPOSITORY = Path(__file__).resolve().parents[2]
STUB = [sys.executable, str(REPOSITORY / "benchmarks/stub_server.py")]
REAL = [sys.executable, "-m", "crossrt", "serve"]


class Answer:
    """The answer to one request."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.status = answer.status
        self.headers = {name.lower(): value for name, value in answer.getheaders()}
        self.body = answer.read()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Served:
    """A running server."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._found = threading.Event()
        self.port = 0
        self.path: str | None = None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._found.wait(60) or (not self.port and self.path is None):
            self.end()
            raise RuntimeError(f"the server did not start: {self.log}")

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            found = re.search(r"(?:serving|workers) on (?:https?://\S+:(\d+)|unix:([^\s\"]+))", line)
            if found:
                self.port, self.path = int(found[1] or 0), found[2]
                self._found.set()
        self._found.set()

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def connect(self, timeout: float = 30) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout)

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        connection = self.connection()
        try:
            sent = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            connection.request(method, path, sent, headers or {})
            return Answer(connection.getresponse())
        except http.client.HTTPException as error:  # an answer that ends early is a broken connection like any other
            raise ConnectionAbortedError(f"{type(error).__name__}: {error}") from error
        finally:
            connection.close()

    def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> Answer:
        return self.ask("POST", path, body, headers)

    def get(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        return self.ask("GET", path, None, headers)

    def metric(self, name: str) -> float:
        """The sum of all series of a metric whose text begins so."""
        lines = self.get("/metrics").body.decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        """End the server at once and return its exit status."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self._reader.join(10)
        if self.process.stderr is not None:
            self.process.stderr.close()
        return self.process.wait(20)


Start = Callable[..., Served]


def eventually(check: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Wait until a check is true, and return what it gives."""
    end = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < end, "it did not become true in time"
        time.sleep(0.02)
    return found


@contextmanager
def starting() -> Iterator[Start]:
    running: list[Served] = []

    def begin(*words: str, bundle: Path | None = None, prefix: tuple[str, ...] = (), **variables: str) -> Served:
        command = [*prefix, *(STUB if bundle is None else [*REAL, str(bundle)])]
        chosen = list(words) if "--port" in words or "--uds" in words else ["--port", "0", *words]
        if "--shutdown-delay" not in words:
            chosen += ["--shutdown-delay", "0"]
        process = subprocess.Popen(
            [*command, *chosen],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **variables},
            cwd=REPOSITORY.parent,
        )
        served = Served(process)
        running.append(served)
        return served

    try:
        yield begin
    finally:
        for each in running:
            each.end()


@pytest.fixture
def start() -> Iterator[Start]:
    """Return a function that starts a server with the stub model, or with `bundle` a real one, for one test."""
    with starting() as begin:
        yield begin


@pytest.fixture(scope="module")
def start_for_all() -> Iterator[Start]:
    """Return the same, for all tests of a file."""
    with starting() as begin:
        yield begin


@pytest.fixture(scope="module")
def stub(start_for_all: Start) -> Served:
    """Return a server whose model takes no time."""
    return start_for_all()
