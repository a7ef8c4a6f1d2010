"""`Turns`: the batches of a scorer that wait, and which of them is computed next."""

import heapq
import itertools
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

TURN_TOKENS = 512
"""Tokens of one turn, at least one batch. A request that is served in one turn is not interrupted by others as small as it is."""


@dataclass(frozen=True, slots=True, eq=False)
class WaitingBatch:
    """A batch that has not begun. `compute` computes it and returns its number of rows, which becomes the result of `future`.

    `request` holds the futures of all batches of the request.
    """

    compute: Callable[[], int]
    tokens: int
    future: Future[int]
    request: Sequence[Future[int]]


@dataclass(order=True, slots=True)
class _Waiting:
    """The batches of a request that have not begun. Requests with a lower priority, then with a lower tag are served first."""

    priority: int
    tag: float
    """Tokens that the request was served, counted from where `Turns` stood when it came."""
    number: int
    """Order of arrival."""
    batches: deque[WaitingBatch] = field(compare=False)
    taken: int = field(default=0, compare=False)
    """Tokens that the current turn has begun."""


class Turns:
    """The requests of a scorer that have batches to compute. Any number of threads may call.

    Requests of one priority share the processors equally by tokens: each turn, of about `TURN_TOKENS`, goes to the request with
    the lowest tag, and adds its tokens to the tag. A new request starts one turn before the point where a request that was
    always served equally would stand. So a small request is served at once, whatever waits, and a large one is never overtaken
    for ever, since each turn moves that point on. This is start-time fair queueing (Goyal, Vin and Cheng, 1996) with tokens as
    the cost, as in "Fairness in Serving Large Language Models" (Sheng et al., OSDI 2024). Among small requests the order is that
    of arrival.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[_Waiting] = []
        """A heap; each request in it has at least one batch."""
        self._equal_share = 0.0
        """Tokens that a request would have been served if it had been here from the start and had always had an equal share."""
        self._numbers = itertools.count()

    @property
    def empty(self) -> bool:
        """Whether no batch waits."""
        return not self._waiting

    def add(self, batches: Sequence[WaitingBatch], *, priority: int = 0) -> None:
        """Add a request, whose batches begin in this order. Lower priorities are served first, and may delay others for ever."""
        if batches:
            with self._lock:
                tag = self._equal_share - TURN_TOKENS
                heapq.heappush(self._waiting, _Waiting(priority, tag, next(self._numbers), deque(batches)))

    def next(self) -> WaitingBatch | None:
        """Take the batch whose turn it is, and mark its future as running; None where no batch waits."""
        with self._lock:
            while self._waiting:
                request = heapq.heappop(self._waiting)
                batch = _first_not_cancelled(request.batches)
                if batch is None:
                    continue
                self._equal_share += batch.tokens / (1 + len(self._waiting))
                request.taken += batch.tokens
                if request.batches:
                    if request.taken + request.batches[0].tokens > TURN_TOKENS:
                        request.tag += request.taken
                        request.taken = 0
                    heapq.heappush(self._waiting, request)
                return batch
        return None

    def cancel(self) -> None:
        """Cancel all batches that wait."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for request in waiting:  # without the lock, because a future calls its callbacks
            for batch in request.batches:
                batch.future.cancel()


def _first_not_cancelled(batches: deque[WaitingBatch]) -> WaitingBatch | None:
    while batches:
        batch = batches.popleft()
        if batch.future.set_running_or_notify_cancel():
            return batch
    return None
