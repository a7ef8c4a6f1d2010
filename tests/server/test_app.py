"""What the application answers, counts and logs when a request does not end as it should."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

for package in ("msgspec", "uvicorn", "starlette", "prometheus_client"):
    pytest.importorskip(package, reason="crossrt[serve] is not installed")

from crossrt.engine.errors import BackendError
from crossrt.server.app import App
from crossrt.server.http.api_keys import ApiKeys
from crossrt.server.models.model_settings import ModelSettings
from crossrt.server.settings import Settings
from crossrt.server.state import State

from .fake_model import Model, served

BODY = b'{"query": "q", "documents": ["text"]}'


class Answered:
    """The application with one model, and what it sent, counted and logged of the last request."""

    def __init__(self, model: Model, app: App) -> None:
        self.model, self.app = model, app
        self.status, self.headers, self.body = 0, dict[str, str](), b""
        self.counted: list[int] = []
        self.logged: list[dict[str, Any]] = []
        for path in app.state.path_metrics.values():
            path.count = lambda status, seconds: self.counted.append(status)  # type: ignore[method-assign]
        app._log.write = lambda fields, status: self.logged.append(fields)  # type: ignore[method-assign]

    async def ask(self, path: str = "/v1/rerank", body: bytes = BODY, method: str = "POST", **headers: bytes) -> int:
        parts = [body]

        async def receive() -> Any:
            if not parts:
                await asyncio.Event().wait()
            return {"type": "http.request", "body": parts.pop()}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
                self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            self.body = message.get("body", b"")

        found = [(name.replace("_", "-").encode(), value) for name, value in headers.items()]
        await self.app({"type": "http", "method": method, "path": path, "headers": found}, receive, send)
        return self.status


def with_app(talk: Callable[[Answered], Awaitable[None]], **settings: Any) -> None:
    async def run() -> None:
        model = Model()
        chosen = Settings(models=(ModelSettings(name="m", bundle="b"),), **settings)
        state = State(chosen, [await served(model)], ApiKeys(chosen.api_keys))
        await talk(Answered(model, App(state)))

    asyncio.run(run())


def test_a_fault_of_the_server_is_told_with_the_id_that_its_log_has(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def talk(app: Answered) -> None:
        def broken(name: str | None) -> Any:
            raise KeyError("SECRET")

        monkeypatch.setattr(app.app.state, "model", broken)
        monkeypatch.setattr("crossrt.server.app.logger.propagate", True)
        assert await app.ask(x_request_id=b"mine") == 500
        words = json.loads(app.body)["message"]
        assert words == "the server has a fault: KeyError; its log has request mine"
        assert "request mine failed by a fault of the server" in caplog.text
        assert "KeyError: 'SECRET'" in caplog.text
        assert app.counted == [500]
        assert app.app.state.in_progress == 0

    with_app(talk)


@pytest.mark.parametrize("draining", [False, True])
def test_a_request_that_is_cancelled_is_counted_and_at_the_end_of_the_server_answered(draining: bool) -> None:
    async def talk(app: Answered) -> None:
        task = asyncio.create_task(app.ask())
        await asyncio.sleep(0.001)
        assert len(app.model.pending) == 1
        app.app.state.draining = draining
        task.cancel()
        if draining:
            assert await task == 503
            assert app.headers["connection"] == "close"
        else:
            with pytest.raises(asyncio.CancelledError):
                await task
            assert app.status == 0
        assert app.counted == [503 if draining else 499]
        assert app.app.state.in_progress == 0
        assert app.model.pending[0].cancelled

    with_app(talk)


@pytest.mark.parametrize(
    ("body", "headers", "status", "closes"),
    [
        (BODY + b" " * 100, {}, 413, True),
        (BODY, {"content_length": b"101"}, 413, True),
        (BODY, {"content_encoding": b"gzip"}, 415, False),
        (b"{", {}, 400, False),
    ],
)
def test_a_connection_that_may_have_unread_data_is_not_used_again(
    monkeypatch: pytest.MonkeyPatch, body: bytes, headers: dict[str, bytes], status: int, closes: bool
) -> None:
    monkeypatch.setattr("crossrt.server.http.request_body.DISCARD_SECONDS", 0.01)

    async def talk(app: Answered) -> None:
        assert await app.ask(body=body, **headers) == status
        assert ("connection" in app.headers) == closes

    with_app(talk, max_payload=100)


def test_a_reload_by_request_needs_a_server_with_keys(tmp_path: Path) -> None:
    async def without(app: Answered) -> None:
        assert await app.ask("/admin/reload") == 404
        assert "needs a server with --api-keys; send it SIGHUP instead" in json.loads(app.body)["message"]

    with_app(without)
    (tmp_path / "keys").write_text("key")

    async def with_keys(app: Answered) -> None:
        assert await app.ask("/admin/reload", x_api_key=b"other") == 401
        (tmp_path / "keys").write_text("")
        assert await app.ask("/admin/reload", x_api_key=b"key") == 503
        assert json.loads(app.body)["keys"].startswith("kept: ")
        assert json.loads(app.body)["m"].startswith("kept: "), "the test has one model, which is opened once"

    with_app(with_keys, api_keys=tmp_path / "keys")


def test_what_a_client_sends_takes_little_room_in_the_log() -> None:
    async def talk(app: Answered) -> None:
        assert await app.ask("/" + "x" * 10_000) == 404
        assert len(app.logged[-1]["path"]) == 200
        assert await app.ask(body=b"{", x_request_id=b"i" * 128) == 400
        assert app.headers["x-request-id"] == app.logged[-1]["id"] == "i" * 128
        assert await app.ask(body=b"{", x_request_id=b"i" * 129) == 400
        assert len(app.headers["x-request-id"]) < 30
        app.model.error = BackendError("no " + "x" * 1000)
        assert await app.ask() == 503
        assert len(app.logged[-1]["reason"]) == 300
        assert len(json.loads(app.body)["message"]) > 1000

    with_app(talk)


@pytest.mark.parametrize(
    ("chosen", "lines"), [("all", [200, 400, 499]), ("usual", [400, 499]), ("failed", [400, 499]), ("none", [])]
)
def test_the_chosen_requests_are_logged(chosen: str, lines: list[int]) -> None:
    async def talk(app: Answered) -> None:
        assert await app.ask("/readyz", method="GET") == 200
        assert await app.ask(body=b"{") == 400
        task = asyncio.create_task(app.ask())
        await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [line["status"] for line in app.logged] == lines

    with_app(talk, log_requests=chosen)
