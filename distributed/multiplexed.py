"""`Multiplexed`: the server's app for many bundles, of which only the most recently used are open."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

from ..engine.errors import CrossrtError
from ..server.app import App
from ..server.dialects.request_error import RequestError
from ..server.http.api_keys import ApiKeys
from ..server.http.request_body import Receive, Send
from ..server.models.served_model import Opener, ServedModel
from ..server.routes import LIVENESS, PROBES, PUBLIC_PATHS
from ..server.serving import opened
from ..server.settings import Settings
from ..server.state import State

logger = logging.getLogger("crossrt.server")

HEADER = b"serve_multiplexed_model_id"
"""Ray Serve's header. Serve routes a request with it to a replica that has the bundle open, if there is one."""
NAMED: ContextVar[str | None] = ContextVar("named", default=None)
"""Name of the bundle in the header of the current request."""
READINESS = frozenset(PROBES) - frozenset(LIVENESS)


class OpenState(State):
    """The state of a server that opens models on demand. `models` are the open ones, `every` are all.

    `load` opens a model by its name, unless it is open.
    """

    def __init__(self, settings: Settings, opener: Opener, load: Callable[[str], Awaitable[Any]]) -> None:
        every = [ServedModel(each, opener) for each in settings.models]
        super().__init__(settings, every, ApiKeys(settings.api_keys))
        self.every = self.models
        self.models = {}
        self._load = load
        self.closing: set[asyncio.Task[None]] = set()
        self.failures: dict[str, str] = {}
        """The reasons why models could not be opened, by model name."""

    @property
    def names(self) -> list[str]:
        """See `State.names`."""
        return list(self.every)

    def needs(self, path: str) -> bool:
        """Tell whether a request without a body needs an open model: to describe it, or to see that one can be opened.

        Without this, each probe and each reading of the metrics would open the first model and close another one for it.
        """
        return path == "/info" or (path in READINESS and not self.models)

    async def opened(self, name: str | None) -> ServedModel:
        """Open the model that a request asks for, unless it is open, and return it.

        Raises RequestError for an unknown name, and for a model that cannot be opened or was closed again to make room for
        others.
        """
        name = self.name(name)
        try:
            await self._load(name)
            self.failures.pop(name, None)
        except (CrossrtError, OSError) as error:
            self.failures[name] = f"the model {name} cannot be opened: {error}"
            logger.error(self.failures[name])
        return self.model(name)

    async def problem(self) -> str | None:
        """See `State.problem`. A server that has no model open, and could not open one, is not ready either."""
        if not self.models and self.failures:
            return next(iter(self.failures.values()))
        return await super().problem()

    def name(self, asked: str | None) -> str:
        """Return the name of the model that a request asks for: from the header, else from its body's `model`, else the first.

        As in `State.model`, a server with one model answers for every name. Raises RequestError for an unknown name.
        """
        names = self.names
        wanted = NAMED.get() or asked
        if wanted is None or len(names) == 1:
            return names[0]
        if wanted not in self.every:
            raise RequestError(
                "not_found",
                f"there is no model {wanted[:80]!r}; this server has {', '.join(names)}",
                logged="there is no model of this name",
            )
        return wanted

    def model(self, name: str | None) -> ServedModel:
        """Return the model that was opened for this request.

        Raises RequestError if it could not be opened, or was closed again to make room for others.
        """
        name = self.name(name)
        found = self.models.get(name)
        if found is None and name in self.failures:
            raise RequestError("unhealthy", self.failures[name], retry_after=1)
        if found is None:
            raise RequestError("overloaded", "the model was closed to make room for others; try again", retry_after=1)
        return found


class OpenedModel:
    """An open model. Ray Serve calls `__del__` when it closes the least recently used one."""

    def __init__(self, state: OpenState, model: ServedModel) -> None:
        self._state, self._model = state, model
        self._loop = asyncio.get_running_loop()
        state.models[model.name] = model

    def __del__(self) -> None:
        """Close the model once the requests that use it are done. Any thread may call this."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._close)

    def _close(self) -> None:
        if self._state.models.get(self._model.name) is self._model:
            del self._state.models[self._model.name]
            task = self._loop.create_task(self._model.close())
            self._state.closing.add(task)
            task.add_done_callback(self._state.closing.discard)


class Multiplexed:
    """An ASGI application: the server's app, which opens the model that a request names.

    `load` opens a model by its name. It is `open`, or Ray Serve's multiplexed wrapper of it, which does nothing for an open
    model.
    """

    def __init__(self, settings: Settings, *, opener: Opener = opened) -> None:
        self.load: Callable[[str], Awaitable[Any]] = self.open
        self.state = OpenState(settings, opener, lambda name: self.load(name))
        self._app = App(self.state)

    @property
    def queued_tokens(self) -> int:
        """Tokens of all accepted requests that are not scored yet."""
        return sum(model.queue.tokens for model in self.state.every.values())

    async def problem(self) -> str | None:
        """Return why an open model cannot score, or None. A model that cannot be opened is no reason to replace the replica."""
        return await State.problem(self.state)

    async def open(self, name: str) -> OpenedModel:
        """Open a model. Raises the errors of `CrossEncoder`."""
        model = self.state.every[name]
        await model.open()
        return OpenedModel(self.state, model)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http":
            return
        headers, path = dict(scope["headers"]), "/" + scope["path"].lstrip("/")
        header = headers.get(HEADER)
        NAMED.set(None if header is None else header.decode("latin-1"))
        if scope["method"] != "POST" and self.state.needs(path):
            with suppress(RequestError):  # the app reports the error
                if path not in PUBLIC_PATHS:
                    self.state.keys.check(headers)
                await self.state.opened(None)
        await self._app(scope, receive, send)
