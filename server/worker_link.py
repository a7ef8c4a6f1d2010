"""Messages between workers and the process that started them. Each worker has a pipe.

A reload must reach all workers, or a revoked key would still work in the others. So a worker that is asked to reload asks the
parent, which tells all workers and collects their results. A pipe keeps its messages until a worker that is still starting reads
them. A signal would be lost.
"""

import asyncio
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from .dialects.request_error import RequestError

if TYPE_CHECKING:
    Pipe: TypeAlias = Connection[Any, Any]
else:
    Pipe = Connection  # not generic before Python 3.13
ReloadResults: TypeAlias = dict[str, str]
"""What a reload did, by model: `opened`, `unchanged`, or `kept` with the reason."""


@dataclass(frozen=True, slots=True)
class Serving:
    """From a worker: it serves requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reload:
    """From a worker: make all workers reload. To a worker: reload, with `force` also an unchanged bundle."""

    force: bool


@dataclass(frozen=True, slots=True)
class Reloaded:
    """From a worker: what it did. To the worker that asked: what all workers did."""

    done: ReloadResults


class Reloader(Protocol):
    """The part of `ManagementEndpoints` that `WorkerLink` uses."""

    async def reload(self, *, force: bool = False) -> ReloadResults:
        """See `ManagementEndpoints.reload`."""


class WorkerLink:
    """A worker's end of its pipe. Only the event loop's thread may use it."""

    def __init__(self, connection: Pipe, reloader: Reloader) -> None:
        """Tell the parent that this worker serves, and from now on handle its messages."""
        self._connection, self._reloader = connection, reloader
        self._loop = asyncio.get_running_loop()
        self._asked: deque[asyncio.Future[ReloadResults]] = deque()
        """Futures of callers that wait until all workers have reloaded. The parent answers in the same order."""
        self._reloading: set[asyncio.Task[None]] = set()
        self._loop.add_reader(connection.fileno(), self._receive)
        connection.send(Serving())

    async def reload_all(self) -> ReloadResults:
        """Make all workers open their bundles and read the keys again. Raises RequestError if the parent has died."""
        future: asyncio.Future[ReloadResults] = self._loop.create_future()
        try:
            self._connection.send(Reload(force=True))
        except OSError as error:
            raise _orphaned() from error
        self._asked.append(future)
        return await future

    def _receive(self) -> None:
        try:
            message = self._connection.recv()
        except (EOFError, OSError):
            self._loop.remove_reader(self._connection.fileno())
            for future in self._asked:
                if not future.done():
                    future.set_exception(_orphaned())
            return
        if isinstance(message, Reload):
            task = self._loop.create_task(self._reload(message.force))
            self._reloading.add(task)
            task.add_done_callback(self._reloading.discard)
        elif not (future := self._asked.popleft()).done():
            future.set_result(message.done)

    async def _reload(self, force: bool) -> None:
        self._connection.send(Reloaded(await self._reloader.reload(force=force)))


class ReloadCoordinator:
    """The parent's record of reloads, which happen one after the other. Workers are identified by number."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int | None, bool]] = deque()
        self._asker: int | None = None
        self._missing: set[int] = set()
        """Workers that have not answered yet."""
        self._answers: list[ReloadResults] = []

    def ask(self, force: bool, asker: int | None = None) -> None:
        """Note that all workers must reload, and which worker to answer. `asker` is None if a signal asked."""
        self._waiting.append((asker, force))

    def begin(self, workers: Collection[int]) -> Reload | None:
        """Return the message for all workers now, or None while a reload is in progress or if none was asked for."""
        if self._missing or not self._waiting:
            return None
        self._asker, force = self._waiting.popleft()
        self._missing, self._answers = set(workers), []
        return Reload(force=force)

    def answered(self, worker: int, done: ReloadResults) -> tuple[int, Reloaded] | None:
        """Note what a worker did. Once all have answered, return the worker to answer and the answer."""
        self._answers.append(done)
        return self._without(worker)

    def died(self, worker: int) -> tuple[int, Reloaded] | None:
        """Note that a worker cannot answer. The worker that replaces it opens the new bundles. Returns the same as `answered`."""
        if self._asker == worker:
            self._asker = None
        self._waiting = deque((None if asker == worker else asker, force) for asker, force in self._waiting)
        return self._without(worker) if worker in self._missing else None

    def _without(self, worker: int) -> tuple[int, Reloaded] | None:
        self._missing.discard(worker)
        if self._missing or self._asker is None:
            return None
        return self._asker, Reloaded(joined(self._answers))


def joined(answers: Sequence[ReloadResults]) -> ReloadResults:
    """Return what all workers did, by model. If some could not open a model, it counts as kept."""
    found: ReloadResults = {}
    for name in dict.fromkeys(name for done in answers for name in done):
        told = [done[name] for done in answers if name in done]
        kept = [what for what in told if what.startswith("kept")]
        found[name] = kept[0] if kept else told[0]
        if kept and len(kept) < len(answers):
            found[name] = f"kept by {len(kept)} of {len(answers)} workers{kept[0].removeprefix('kept')}"
    return found


def _orphaned() -> RequestError:
    return RequestError(
        "unhealthy", "the process that started this worker has died, so the others cannot be told; restart"
    )
