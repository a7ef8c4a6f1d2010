"""`serve` opens the models, serves requests and shuts down gracefully."""

import asyncio
import contextlib
import gc
import logging
import resource
import signal
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.middleware.cors import CORSMiddleware

from ..engine.cross_encoder import CrossEncoder
from .app import App
from .http.api_keys import ApiKeys
from .http.listening import address, listening_socket
from .http.slow_clients import ClientTimeouts, Connection, close_slow
from .models.model_settings import ModelSettings
from .models.served_model import Opener, ServedModel
from .request_log import configure
from .settings import Settings
from .state import State
from .tracing import open_tracer
from .worker_link import Pipe, WorkerLink

logger = logging.getLogger("crossrt.server")


def opened(settings: ModelSettings) -> CrossEncoder:
    """Open the model of the settings. Raises the errors of `CrossEncoder`."""
    return CrossEncoder(settings.bundle, **settings.options)


def serve(
    settings: Settings,
    listening: socket.socket | None = None,
    parent: Pipe | None = None,
    *,
    opener: Opener = opened,
) -> None:
    """Serve until SIGTERM or SIGINT.

    `listening` is a socket to accept connections from, by default one that the settings name. `parent` is a worker's pipe to the
    process that started it. Raises OptionError for an address, keys or certificates that cannot be used, and the errors of
    opening a model.
    """
    configure(settings)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until it can be handled
    _raise_descriptor_limit()
    keys = ApiKeys(settings.api_keys)
    tls = settings.tls()
    listening = listening_socket(settings.host, settings.port, settings.uds) if listening is None else listening
    with asyncio.Runner(loop_factory=uvicorn.Config(_nothing, log_config=None).get_loop_factory()) as runner:
        runner.run(_serve(settings, listening, keys, opener, tls is not None, parent))


async def check(settings: Settings, *, opener: Opener = opened) -> None:
    """Do what `serve` does before it serves, and raise the errors that it would raise.

    This reads the keys and certificates, listens on the address, creates the tracer, opens every model and scores a probe with
    it. An address that a running server uses is also an error.
    """
    ApiKeys(settings.api_keys)
    settings.tls()
    listening = listening_socket(settings.host, settings.port, settings.uds)
    listening.close()
    if settings.uds is not None:
        settings.uds.unlink()
    open_tracer(settings.otlp_endpoint).close()
    for each in settings.models:
        model = ServedModel(each, opener)
        await model.open()
        await model.close()


async def _serve(
    settings: Settings,
    listening: socket.socket,
    keys: ApiKeys,
    opener: Opener,
    tls: bool,
    parent: Pipe | None,
) -> None:
    gc.freeze()  # the modules stay loaded, so the garbage collector need not look at their objects again
    models = [ServedModel(each, opener) for each in settings.models]
    for model in models:
        await model.open()
        logger.info("the model %s is open: %s", model.name, model.model)
    state = State(settings, models, keys)
    app = App(state)
    server = Server(settings, state, app, address(listening, tls=tls), parent)
    await server.serve(sockets=[listening])
    for model in models:
        await model.close()
    app.tracer.close()
    logger.info("ended")


class Server(uvicorn.Server):
    """uvicorn's server with graceful shutdown and reload on SIGHUP."""

    def __init__(self, settings: Settings, state: State, app: App, where: str, parent: Pipe | None) -> None:
        self._settings, self._state, self._app, self._where, self._parent = settings, state, app, where, parent
        super().__init__(_config(settings, app))
        self._signals = 0
        self._timeouts = ClientTimeouts(
            headers=settings.header_timeout, body=settings.body_timeout, answer=settings.write_timeout
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals in the event loop. Unlike uvicorn, raise none again after the shutdown, so that the exit status is 0."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end, number)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept connections, then log the address. See `uvicorn.Server.startup`."""
        await super().startup(sockets)
        if self._parent is not None:
            management = self._app.management
            management.reload_all = WorkerLink(self._parent, management).reload_all
        logger.info("serving on %s", self._where)

    async def on_tick(self, counter: int) -> bool:
        """Check connections and refresh metrics once a second. See `uvicorn.Server.on_tick`."""
        if counter % 10 == 0:
            connections: Any = self.server_state.connections
            close_slow(list(connections), self._timeouts, asyncio.get_running_loop().time())
            self._state.refresh_metrics()
        return await super().on_tick(counter)

    def _end(self, number: int) -> None:
        """Fail readiness, keep serving for a while, then finish accepted requests.

        A second signal ends the delay, a third one ends everything.
        """
        self._signals += 1
        delay = self._settings.shutdown_delay if number == signal.SIGTERM and self._signals == 1 else 0.0
        if self._signals == 1:
            logger.info("shutting down: not ready any more, and accepting for %g s", delay)
        self._state.draining = True
        if self._signals > 2:
            self.force_exit = True
            for task in self.server_state.tasks:  # the models are closed when no request uses them
                task.cancel()
        asyncio.get_running_loop().call_later(delay, self._stop_accepting)

    def _stop_accepting(self) -> None:
        self.should_exit = True

    def _reload(self) -> None:
        self._reloading = asyncio.create_task(self._app.management.reload())


def _config(settings: Settings, app: App) -> uvicorn.Config:
    served: Any = app
    if settings.cors_origins:
        served = CORSMiddleware(
            served, allow_origins=settings.cors_origins, allow_methods=["GET", "POST"], allow_headers=["*"]
        )
    return uvicorn.Config(
        served,
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=settings.keep_alive,  # type: ignore[arg-type]  # call_later takes fractions as well
        timeout_graceful_shutdown=settings.shutdown_timeout,  # type: ignore[arg-type]
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
    )


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    """Placeholder for an application, to ask for uvicorn's choice of event loop."""


def _raise_descriptor_limit() -> None:
    """Raise the limit of open connections to the system's hard limit. The usual soft limit is 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
