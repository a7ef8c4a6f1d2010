"""The server's app over several bundles: each is opened when a request names it, and closed for others. Without Ray."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

for package in ("msgspec", "uvicorn", "starlette", "prometheus_client"):
    pytest.importorskip(package, reason="crossrt[serve] is not installed")

from crossrt import CrossEncoder
from crossrt.distributed.multiplexed import HEADER, Multiplexed, OpenedModel
from crossrt.distributed.serve import QueuedTokens
from crossrt.server.models.model_settings import ModelSettings
from crossrt.server.settings import Settings

TEXTS = ["K2 is high", "Berlin is a city"]


class Opener:
    """Opens the demo model under any name, and remembers which names were opened."""

    def __init__(self, bundle: Path) -> None:
        self.bundle, self.names = bundle, list[str]()

    def __call__(self, settings: ModelSettings) -> CrossEncoder:
        self.names.append(settings.name)
        return CrossEncoder(self.bundle, device="cpu", threads=1)


class Asked:
    """An app with two models, and what it answers."""

    def __init__(self, app: Multiplexed, opener: Opener) -> None:
        self.app, self.opener = app, opener
        self.kept: list[Any] = []

    async def load(self, name: str) -> None:
        """Open one model at a time, as Ray Serve does with one bundle for each replica."""
        if name not in self.app.state.models:
            self.kept.clear()
            await asyncio.sleep(0.05)
            self.kept.append(await self.app.open(name))

    async def get(self, path: str, *headers: tuple[bytes, bytes]) -> tuple[int, bytes]:
        return await self._send("GET", path, b"", *headers)

    async def post(self, body: bytes, *headers: tuple[bytes, bytes]) -> tuple[int, Any]:
        status, answer = await self._send("POST", "/rerank", body, *headers)
        return status, json.loads(answer)

    async def _send(self, method: str, path: str, body: bytes, *headers: tuple[bytes, bytes]) -> tuple[int, bytes]:
        messages = [{"type": "http.request", "body": body[:9], "more_body": True}]
        messages.append({"type": "http.request", "body": body[9:], "more_body": False})
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop(0)
            await asyncio.sleep(60)
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": method, "path": path, "headers": list(headers)}
        await self.app(scope, receive, send)
        return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


@pytest.fixture
def conversation(demo_bundle: Path) -> Callable[..., Any]:
    def run(talk: Callable[[Asked], Coroutine[Any, Any, Any]], *names: str, **settings: Any) -> Any:
        async def main() -> Any:
            models = tuple(ModelSettings(name=name, bundle=str(demo_bundle)) for name in names or ("small", "large"))
            opener = Opener(demo_bundle)
            asked = Asked(Multiplexed(Settings(models=models, log_requests="none", **settings), opener=opener), opener)
            asked.app.load = asked.load
            return await talk(asked)

        return asyncio.run(main())

    return run


def body(**fields: Any) -> bytes:
    return json.dumps({"query": "how tall is k2", "documents": TEXTS, **fields}).encode()


def test_a_request_is_answered_by_the_model_that_it_names(conversation: Callable[..., Any]) -> None:
    async def talk(asked: Asked) -> None:
        for request, headers, name in [
            (body(), (), "small"),
            (body(model="large"), (), "large"),
            (body(model="small"), ((HEADER, b"large"),), "large"),
            (b'{"query": "q", "texts": ["a"]}', ((HEADER, b"large"),), "large"),
            (body(model="small"), (), "small"),
        ]:
            status, answer = await asked.post(request, *headers)
            assert status == 200
            assert isinstance(answer, list) or answer["model"] == name
            assert list(asked.app.state.models) == [name]
            assert asked.app.queued_tokens == 0
        assert asked.opener.names == ["small", "large", "small"]

    conversation(talk)


def test_probes_and_metrics_open_no_model_for_another(conversation: Callable[..., Any]) -> None:
    async def talk(asked: Asked) -> None:
        for path in ("/livez", "/metrics", "/docs", "/openapi.json", "/v1/models", "/nothing"):
            assert (await asked.get(path))[0] == (404 if path == "/nothing" else 200)
        assert asked.opener.names == []
        assert [each["id"] for each in json.loads((await asked.get("/v1/models"))[1])["data"]] == ["small", "large"]
        assert (await asked.get("/readyz"))[0] == 200
        assert asked.opener.names == ["small"], "a server that cannot open a model is not ready"
        assert (await asked.post(body(model="large")))[0] == 200
        for path in ("/readyz", "/health", "/livez", "/metrics"):
            assert (await asked.get(path))[0] == 200
        assert asked.opener.names == ["small", "large"]

    conversation(talk)


def test_a_request_that_is_refused_opens_no_model(conversation: Callable[..., Any], tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("secret\n")
    key = (b"authorization", b"Bearer secret")

    async def talk(asked: Asked) -> None:
        assert (await asked.post(body(model="large")))[0] == 401
        assert (await asked.post(body(), (HEADER, b"large")))[0] == 401
        assert (await asked.get("/info"))[0] == 401
        assert (await asked.post(body(), key, (b"content-encoding", b"gzip")))[0] == 415
        assert (await asked.post(body(documents=["x" * 2000]), key))[0] == 413
        assert (await asked.post(b"{", key, (HEADER, b"large")))[0] == 400
        assert asked.opener.names == []
        assert (await asked.get("/info", key))[0] == 200
        assert (await asked.post(body(model="large"), key))[0] == 200
        assert asked.opener.names == ["small", "large"]

    conversation(talk, api_keys=keys, max_payload=1000)


def test_an_unknown_name_and_a_body_that_is_none_are_refused_by_the_app(conversation: Callable[..., Any]) -> None:
    async def talk(asked: Asked) -> None:
        assert (await asked.post(body(model="none")))[0] == 404
        status, answer = await asked.post(body(), (HEADER, b"none"))
        assert status == 404
        assert "there is no model 'none'; this server has small, large" in answer["message"]
        assert (await asked.post(b"{"))[0] == 400
        assert (await asked.post(b'{"query": ' + b"[" * 100_000))[0] == 400
        assert (await asked.post(b'{"query": "q", "documents": [], "model": 7}'))[0] == 400

    conversation(talk)


def test_one_model_answers_whatever_the_name(conversation: Callable[..., Any]) -> None:
    async def talk(asked: Asked) -> None:
        assert (await asked.post(body(model="rerank-v3.5")))[1]["model"] == "only"

    conversation(talk, "only")


def test_a_model_that_was_closed_for_others_asks_to_try_again(conversation: Callable[..., Any]) -> None:
    async def talk(asked: Asked) -> None:
        async def nothing(name: str) -> None:
            return

        asked.app.load = nothing
        assert (await asked.post(body()))[0] == 429

    conversation(talk)


def test_a_model_that_cannot_be_opened_says_why(conversation: Callable[..., Any], tmp_path: Path) -> None:
    async def talk(asked: Asked) -> None:
        bundle, asked.opener.bundle = asked.opener.bundle, tmp_path
        status, answer = await asked.post(body())
        assert status == 503
        assert "the model small cannot be opened: " in answer["message"]
        status, problem = await asked.get("/readyz")
        assert (status, b"the model small cannot be opened: " in problem) == (503, True)
        assert await asked.app.problem() is None  # another replica could not open it either
        asked.opener.bundle = bundle
        assert (await asked.post(body()))[0] == 200

    conversation(talk)


def test_requests_that_are_being_scored_end_with_their_model(conversation: Callable[..., Any]) -> None:
    async def talk(asked: Asked) -> None:
        many = json.dumps({"query": "how tall is k2", "documents": TEXTS * 200, "model": "large"}).encode()
        scoring = asyncio.create_task(asked.post(many))
        while not asked.app.queued_tokens:
            await asyncio.sleep(0.001)
        assert (await asked.post(body(model="small")))[0] == 200
        assert "large" not in asked.app.state.models
        assert (await scoring)[0] == 200

    conversation(talk)


def test_a_model_that_is_opened_again_while_it_closes_leaves_nothing_behind(conversation: Callable[..., Any]) -> None:
    async def talk(asked: Asked) -> None:
        state = asked.app.state
        kept = [await asked.app.open("large")]
        opened = state.models["large"]._opened
        assert opened is not None
        with opened:  # as a request that is being scored
            kept.clear()
            while not state.closing:
                await asyncio.sleep(0)
            kept.append(await asked.app.open("large"))
            await asyncio.sleep(0)  # the old model is now to be closed a second time
        async with asyncio.timeout(10):
            await asyncio.gather(*state.closing)
        assert (await asked.post(body(model="large")))[0] == 200

    conversation(talk)


def test_models_may_be_opened_and_closed_while_their_health_is_asked(conversation: Callable[..., Any]) -> None:
    async def talk(asked: Asked) -> None:
        state = asked.app.state
        kept = {name: await asked.app.open(name) for name in ("small", "large")}
        for model in state.models.values():
            model._last_success = float("-inf")  # so that a probe is scored
        health = asyncio.create_task(state.problem())
        while state.models["small"]._probe is None:
            await asyncio.sleep(0)
        del kept["large"]
        kept["third"] = await asked.app.open("third")
        assert await health is None
        assert list(state.models) == ["small", "third"]

    conversation(talk, "small", "large", "third")


def test_models_may_be_opened_and_closed_while_others_are_reloaded(conversation: Callable[..., Any]) -> None:
    async def talk(asked: Asked) -> None:
        state = asked.app.state
        kept = {name: await asked.app.open(name) for name in ("small", "large")}
        reload = asyncio.create_task(asked.app._app.management.reload(force=True))
        while len(asked.opener.names) == 2:
            await asyncio.sleep(0.001)
        del kept["large"]
        kept["third"] = await asked.app.open("third")
        assert await reload == {"small": "opened"}
        assert asked.opener.names.count("large") == 1
        assert list(state.models) == ["small", "third"]

    conversation(talk, "small", "large", "third")


def test_an_opened_model_may_be_dropped_after_the_loop(conversation: Callable[..., Any]) -> None:
    async def talk(asked: Asked) -> OpenedModel:
        return await asked.app.open("small")

    conversation(talk).__del__()


@pytest.mark.parametrize(("queued", "replicas"), [({}, 1), ({"a": 100, "b": 0}, 1), ({"a": 100, "b": 101}, 3)])
def test_a_replica_for_so_many_tokens_that_wait(queued: dict[str, int], replicas: int) -> None:
    class Context:
        aggregated_metrics = {"queued_tokens": queued}  # noqa: RUF012

    assert QueuedTokens(100)(Context())[0] == replicas
