"""`ManagementEndpoints` answers all requests but scoring: probes, metrics, served models, the API's description, and reload."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import msgspec

from .. import __version__
from ..engine.errors import CrossrtError
from .api_page import page
from .dialects.request_error import RequestError
from .http.response import Response
from .metrics import CONTENT_TYPE, exposition
from .models.served_model import ServedModel
from .openapi import document
from .routes import LIVENESS, PROBES, RELOAD, SCORING_ROUTES
from .state import State

logger = logging.getLogger("crossrt.server")


class ManagementEndpoints:
    """Answers requests other than scoring, by path."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._openapi = msgspec.json.encode(document(needs_key=state.keys.required))
        self._page = page().encode()
        self._reloading = asyncio.Lock()
        self.reload_all: Callable[[], Awaitable[dict[str, str]]] = partial(self.reload, force=True)
        """What a request to reload calls: `reload`, or in a worker a function that reloads all workers."""
        self._responders: dict[str, Callable[[], Awaitable[Response]]] = {
            **dict.fromkeys(PROBES, self._readiness),
            **dict.fromkeys(LIVENESS, self._liveness),
            "/info": self._info,
            "/v1/models": self._models,
            "/metrics": self._metrics,
            "/openapi.json": self._description,
            "/docs": self._docs,
            "/": self._docs,
        }
        self._scoring = {route.path for route in SCORING_ROUTES}

    async def respond(self, method: str, path: str) -> Response:
        """Return the answer to a method and a path. Raises RequestError for an unknown path or a method that it does not take."""
        if path == RELOAD and method == "POST":
            return await self._reload()
        found = self._responders.get(path)
        if found is not None and method in ("GET", "HEAD"):
            return await found()
        if found is None and path not in self._scoring and path != RELOAD:
            raise RequestError(
                "not_found", f"there is no {path[:80]}; /docs shows what there is", logged="there is no such path"
            )
        methods = self._methods(path)
        raise RequestError(
            "method", f"{path} takes {methods}, and not {method}; /docs shows what it takes", allow=methods
        )

    def _methods(self, path: str) -> str:
        """Return the methods that a path takes."""
        reading = ["GET", "HEAD"] if path in self._responders else []
        posting = ["POST"] if path in self._scoring or path == RELOAD else []
        return ", ".join(reading + posting)

    async def reload(self, *, force: bool = False) -> dict[str, str]:
        """Read the keys again, and open each bundle again that was replaced, or all with `force`. Return what was done, by model.

        Keys or a bundle that cannot be read stay as they were.
        """
        done: dict[str, str] = {}
        async with self._reloading:
            try:
                self._state.keys.reload()
            except CrossrtError as error:
                done["keys"] = f"kept: {error}"
            for name, model in list(
                self._state.models.items()
            ):  # on Ray Serve, models may be opened and closed meanwhile
                if name in self._state.models:
                    done[name] = await self._reloaded(model, force)
        logger.info("reload: %s", ", ".join(f"{name} {what}" for name, what in done.items()))
        return done

    async def _reloaded(self, model: ServedModel, force: bool) -> str:
        metrics = self._state.model_metrics[model.name]
        try:
            if not await model.reload(force=force):
                return "unchanged"
        except Exception as error:
            metrics.count_reload("failed")
            return f"kept: {error}"
        metrics.count_reload("done")
        return "opened"

    async def _reload(self) -> Response:
        if not self._state.keys.required:
            raise RequestError("not_found", f"{RELOAD} needs a server with --api-keys; send it SIGHUP instead")
        done = await self.reload_all()
        failed = any(what.startswith("kept") for what in done.values())
        return Response(503 if failed else 200, msgspec.json.encode(done))

    async def _readiness(self) -> Response:
        problem = await self._state.problem()
        if problem is not None:
            raise RequestError("unhealthy", problem)
        return Response(200, b'{"status":"ready"}')

    async def _liveness(self) -> Response:
        return Response(200, b'{"status":"live"}')

    async def _metrics(self) -> Response:
        self._state.refresh_metrics()
        return Response(200, exposition(), CONTENT_TYPE)

    async def _description(self) -> Response:
        return Response(200, self._openapi)

    async def _docs(self) -> Response:
        return Response(200, self._page, b"text/html; charset=utf-8")

    async def _models(self) -> Response:
        models = [{"id": name, "object": "model", "created": 0, "owned_by": "crossrt"} for name in self._state.names]
        return Response(200, msgspec.json.encode({"object": "list", "data": models}))

    async def _info(self) -> Response:
        return Response(200, msgspec.json.encode(info(self._state.model(None))))


def info(model: ServedModel) -> dict[str, Any]:
    """Return a model's information as in TEI's /info."""
    limits, names = model.settings.limits, dict(enumerate(model.labels))
    return {
        "model_id": model.name,
        "model_sha": None,
        "model_dtype": getattr(getattr(model.model, "precision", None), "value", "float32"),
        "model_type": {
            "reranker": {
                "id2label": {str(number): name for number, name in names.items()},
                "label2id": {name: number for number, name in names.items()},
            }
        },
        "max_concurrent_requests": limits.max_queue_tokens,
        "max_input_length": model.model.max_length,
        "max_batch_tokens": limits.max_request_tokens,
        "max_batch_requests": None,
        "max_client_batch_size": limits.max_documents,
        "auto_truncate": limits.truncate,
        "tokenization_workers": 2,
        "version": __version__,
        "sha": None,
        "docker_label": None,
    }
