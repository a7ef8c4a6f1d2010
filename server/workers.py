"""`supervise` runs several worker processes that accept connections from one socket."""

import contextlib
import logging
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import socket
import tempfile
import time
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from typing import Any

from ..engine.errors import CrossrtError
from .http.listening import address, listening_socket
from .request_log import configure
from .serving import serve
from .settings import Settings
from .worker_link import Pipe, Reload, ReloadCoordinator, Reloaded, Serving

logger = logging.getLogger("crossrt.server")

FIRST_PAUSE, MAX_PAUSE = 1.0, 60.0
"""Seconds until a worker that could not start is started again. Each pause is twice as long as the one before."""


def supervise(settings: Settings) -> None:
    """Run workers until SIGTERM or SIGINT, and replace workers that die. Signals are passed on to all workers.

    A worker that cannot start, for example because its bundle is being replaced, is started again later while the others serve.
    Raises the errors of `listening_socket`. Exits with 1 if no worker could ever start.
    """
    configure(settings)
    listening = listening_socket(settings.host, settings.port, settings.uds)
    logger.info("%d workers on %s", settings.workers, address(listening, tls=settings.tls_key is not None))
    folder = tempfile.mkdtemp(prefix="crossrt-metrics-")
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
    try:
        failed = _Workers(settings, listening).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if failed:
        raise SystemExit(1)


@dataclass(slots=True)
class _Worker:
    """A worker's process, the parent's end of its pipe, and whether it serves."""

    process: BaseProcess
    connection: Pipe
    serving: bool = False


class _Workers:
    def __init__(self, settings: Settings, listening: socket.socket) -> None:
        self._settings = settings
        self._listening = listening
        self._running: dict[int, _Worker] = {}
        """The running workers by number."""
        self._due: dict[int, float] = {}
        """The times at which workers that could not start are started again, by number."""
        self._pauses: dict[int, float] = {}
        """The last pause of each worker that could not start, by number."""
        self._served = False
        """Whether any worker has ever served."""
        self._reloads = ReloadCoordinator()
        self._woken, self._wake = multiprocessing.Pipe(duplex=False)
        """A pipe through which a signal handler ends the wait for workers."""
        self._ending = False

    def run(self) -> bool:
        """Keep the workers running until a signal ends them. Return True if no worker could start."""
        for ending in (signal.SIGTERM, signal.SIGINT):
            signal.signal(ending, self._end)
        signal.signal(signal.SIGHUP, lambda number, frame: self._wake.send(Reload(force=False)))
        for number in range(self._settings.workers):
            self._start(number)
        if not self._running:
            logger.error("no worker could start; ending")
            return True
        while self._running or (self._due and not self._ending):
            self._wait()
            self._listen()
            self._replace_dead()
            if self._ending:
                # The workers close their copies of the socket when they stop accepting. This copy would keep the port open, and
                # connections would wait for nobody.
                self._listening.close()
                self._due.clear()
            for number in [number for number, when in self._due.items() if when <= time.monotonic()]:
                del self._due[number]
                self._start(number)
            if (told := self._reloads.begin(self._running)) is not None:
                for worker in self._running.values():
                    _send(worker, told)
        return not self._ending

    def _wait(self) -> None:
        """Wait for at most a second for a worker's message or death, a signal, or the time to start a worker again."""
        objects = [each for worker in self._running.values() for each in (worker.process.sentinel, worker.connection)]
        until = min(self._due.values(), default=float("inf")) - time.monotonic()
        multiprocessing.connection.wait([*objects, self._woken], timeout=min(1.0, max(0.0, until)))

    def _listen(self) -> None:
        """Handle the messages of workers and signals."""
        while self._woken.poll():
            if (told := self._woken.recv()) is not None:
                self._reloads.ask(told.force)
        for number, worker in self._running.items():
            try:
                while worker.connection.poll():
                    self._hear(number, worker, worker.connection.recv())
            except (EOFError, OSError):  # the worker is dying
                continue

    def _hear(self, number: int, worker: _Worker, message: Any) -> None:
        if isinstance(message, Serving):
            worker.serving = self._served = True
            self._pauses.pop(number, None)
        elif isinstance(message, Reload):
            self._reloads.ask(message.force, number)
        else:
            self._answer(self._reloads.answered(number, message.done))

    def _answer(self, answer: tuple[int, Reloaded] | None) -> None:
        if answer is not None and answer[0] in self._running:
            _send(self._running[answer[0]], answer[1])

    def _replace_dead(self) -> None:
        for number, worker in list(self._running.items()):
            status = worker.process.exitcode
            if status is None:
                continue
            del self._running[number]
            worker.connection.close()
            self._answer(self._reloads.died(number))
            _forget_metrics(worker.process.pid)
            if self._ending:
                continue
            if worker.serving:
                logger.error("worker %s ended with status %s; starting another", worker.process.pid, status)
                self._start(number)
            elif not self._served and not self._running:
                logger.error("no worker could start; ending")
                self._due.clear()
            else:
                self._try_again(number, f"status {status}")

    def _try_again(self, number: int, why: str) -> None:
        pause = min(2 * self._pauses.get(number, FIRST_PAUSE / 2), MAX_PAUSE)
        self._pauses[number], self._due[number] = pause, time.monotonic() + pause
        logger.error("a worker could not start, %s; trying again in %g s", why, pause)

    def _start(self, number: int) -> None:
        # Spawn and do not fork, since the parent may have opened things that do not survive a fork.
        context = multiprocessing.get_context("spawn")
        connection, others = context.Pipe()
        process = context.Process(
            target=_work, args=(_share(self._settings), self._listening, others), name=f"crossrt-worker-{number}"
        )
        try:
            process.start()
        except OSError as error:  # the system allows no more processes, or has no memory left
            connection.close()
            others.close()
            self._try_again(number, str(error))
            return
        others.close()  # so that the pipe is closed when the worker ends
        self._running[number] = _Worker(process, connection)
        if self._ending:  # a signal came during the start and did not reach this worker
            process.terminate()

    def _end(self, number: int, frame: Any) -> None:
        self._ending = True
        self._wake.send(None)
        for worker in self._running.values():
            if worker.process.pid is not None and worker.process.exitcode is None:
                os.kill(worker.process.pid, number)


def _work(settings: Settings, listening: socket.socket, connection: Pipe) -> None:
    """Serve as a worker. Log the reason and exit with 1 if that is not possible."""
    try:
        serve(settings, listening, connection)
    except CrossrtError as error:
        logger.error("%s", error)
        raise SystemExit(1) from None


def _send(worker: _Worker, message: Reload | Reloaded) -> None:
    with contextlib.suppress(OSError):  # the worker is dying, which the loop notices next
        worker.connection.send(message)


def _share(settings: Settings) -> Settings:
    """Return the settings of one worker. Models without a number of threads get the worker's share of the processors."""
    from ..engine.hardware.cpus import usable_cpus

    threads = max(1, usable_cpus() // settings.workers)
    models = tuple(
        replace(each, options={**each.options, "threads": each.options.get("threads") or threads})
        for each in settings.models
    )
    return replace(settings, models=models)


def _forget_metrics(pid: int | None) -> None:
    from prometheus_client.multiprocess import mark_process_dead

    if pid is not None:
        mark_process_dead(pid)  # type: ignore[no-untyped-call]
