"""`supervise`: several processes that accept from one socket, each with its own interpreter."""

import logging
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import socket
import tempfile
import time
from dataclasses import replace
from multiprocessing.process import BaseProcess
from typing import Any

from .http.listening import address, bound
from .request_log import configure
from .serving import serve
from .settings import Settings

logger = logging.getLogger("crossrt.server")

QUICK_DEATH = 5.0
"""A worker that ends sooner than this after its start could not start; the server then ends instead of trying for ever."""


def supervise(settings: Settings) -> None:
    """Run workers until SIGTERM or SIGINT, and start one again that died. Signals are passed on to all workers.

    Raises what listening raises. Exits with 1 when a worker cannot start.
    """
    configure(settings)
    listening = bound(settings.host, settings.port, settings.uds)
    logger.info("%d workers on %s", settings.workers, address(listening, tls=settings.tls_key is not None))
    folder = tempfile.mkdtemp(prefix="crossrt-metrics-")
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
    try:
        failed = _Workers(settings, listening).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if failed:
        raise SystemExit(1)


class _Workers:
    def __init__(self, settings: Settings, listening: socket.socket) -> None:
        self._settings = settings
        self._listening = listening
        self._processes: dict[int, tuple[BaseProcess, float]] = {}
        """Each worker's process and when it started, by its number."""
        self._ending = False

    def run(self) -> bool:
        """Keep the workers running until a signal ends them. Tell whether one could not start."""
        for ending in (signal.SIGTERM, signal.SIGINT):
            signal.signal(ending, self._end)
        signal.signal(signal.SIGHUP, lambda number, frame: self._pass_on(number))
        for number in range(self._settings.workers):
            self._start(number)
        failed = False
        while self._processes:
            multiprocessing.connection.wait([process.sentinel for process, _ in self._processes.values()], timeout=1)
            failed |= self._replace_dead()
        return failed

    def _replace_dead(self) -> bool:
        failed = False
        for number, (process, started) in list(self._processes.items()):
            if process.exitcode is None:
                continue
            del self._processes[number]
            _forget_metrics(process.pid)
            if self._ending:
                continue
            if process.exitcode == 1 and time.monotonic() - started < QUICK_DEATH:
                logger.error("a worker could not start; ending")
                failed = True
                self._end(signal.SIGTERM, None)
            else:
                logger.error("worker %s ended with status %s; starting another", process.pid, process.exitcode)
                self._start(number)
        return failed

    def _start(self, number: int) -> None:
        # Not forked: the parent may have opened what does not survive a fork.
        process = multiprocessing.get_context("spawn").Process(
            target=serve, args=(_share(self._settings), self._listening), name=f"crossrt-worker-{number}"
        )
        process.start()
        self._processes[number] = process, time.monotonic()

    def _end(self, number: int, frame: Any) -> None:
        self._ending = True
        self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        for process, _ in self._processes.values():
            if process.pid is not None and process.exitcode is None:
                os.kill(process.pid, number)


def _share(settings: Settings) -> Settings:
    """Return the settings of one worker: where the models' threads are not given, each worker has its share of the processors."""
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
