"""`FairQueue`: the waiting batches of a scorer, in the order in which they are computed."""

import heapq
import itertools
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Work = TypeVar("Work")
"""What a scorer needs to compute a batch."""

TURN_TOKENS = 512
"""Tokens of one turn, which has at least one batch. That is about one full batch on a CPU."""
SMALL_TOKENS = 2048
"""A request of up to this many tokens is served in one turn. That is a list of about 20 passages."""


@dataclass(frozen=True, slots=True, eq=False)
class WaitingBatch(Generic[Work]):
    """A batch that has not begun. `request` holds the futures of all batches of its request.

    The thread that takes the batch computes `work`. Then it sets the number of rows as the result of `future`, or calls `fail`.
    """

    work: Work
    tokens: int
    future: Future[int]
    request: Sequence[Future[int]]

    def fail(self, error: BaseException) -> None:
        """Pass the error to the thread that waits, and cancel the batches of the request that have not begun."""
        cancel(self.request)
        self.future.set_exception(error)


def cancel(futures: Iterable[Future[int]]) -> None:
    """Cancel the batches that have not begun."""
    for future in futures:
        future.cancel()


class FairQueue(Generic[Work]):
    """The requests of a scorer that have batches to compute. Any number of threads may call.

    Requests with a lower priority are served first. Requests of the same priority share the processors equally by tokens: each
    turn, of about `TURN_TOKENS`, goes to the request that was served the fewest tokens. A new request starts at the equal share,
    which is what a request that was always here would have been served. Its first turn comes `TURN_TOKENS` earlier than that.
    The single turn of a request of up to `SMALL_TOKENS` comes `SMALL_TOKENS` earlier. So a small request is served completely
    before the rest of all large ones, and small requests are served in order of arrival. A large request falls behind its equal
    share by about `SMALL_TOKENS` at most, however many small ones come.

    This is fair queueing with tokens as the cost (Demers, Keshav and Shenker, SIGCOMM 1989), as in "Fairness in Serving Large
    Language Models" (Sheng et al., OSDI 2024). The equal share is its virtual time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._levels: dict[int, _PriorityLevel[Work]] = {}
        """By priority; none is empty."""

    @property
    def empty(self) -> bool:
        """Whether no batch waits."""
        return not self._levels

    def add(self, batches: Sequence[WaitingBatch[Work]], *, priority: int = 0) -> None:
        """Add a request, whose batches begin in this order."""
        if batches:
            with self._lock:
                self._levels.setdefault(priority, _PriorityLevel()).add(batches)

    def next(self) -> WaitingBatch[Work] | None:
        """Take the batch whose turn it is, and mark its future as running; None if no batch waits."""
        with self._lock:
            while self._levels:
                priority = min(self._levels)
                level = self._levels[priority]
                batch = level.next()
                if not level.requests:
                    del self._levels[priority]
                if batch is not None:
                    return batch
        return None

    def cancel(self) -> None:
        """Cancel all batches that wait."""
        with self._lock:
            levels, self._levels = self._levels, {}
        for level in levels.values():  # without the lock, because cancelling a future runs its callbacks
            for request in level.requests:
                for batch in request.batches:
                    batch.future.cancel()


class _PriorityLevel(Generic[Work]):
    """The requests of one priority. Used under the lock of `FairQueue`."""

    def __init__(self) -> None:
        self.requests: list[_Request[Work]] = []
        """A heap; the first request is served next."""
        self._equal_share = 0.0
        """Tokens that a request would have been served if it had always been here and all were served at once, equally."""
        self._ends: list[float] = []
        """A heap: the equal share at which each request would be done. A small request is served in one turn, so it is done
        earlier than that. It still counts until its end, so that the other requests catch up."""
        self._numbers = itertools.count()

    def add(self, batches: Sequence[WaitingBatch[Work]]) -> None:
        start, tokens = self._equal_share, sum(batch.tokens for batch in batches)
        first_turn = SMALL_TOKENS if tokens <= SMALL_TOKENS else TURN_TOKENS
        request = _Request(
            start - first_turn, next(self._numbers), start, start + tokens, deque(batches), turn_end=first_turn
        )
        heapq.heappush(self.requests, request)
        heapq.heappush(self._ends, request.end)

    def next(self) -> WaitingBatch[Work] | None:
        """Take the batch whose turn it is; None if all batches of its request are cancelled."""
        request = heapq.heappop(self.requests)
        self._start_first(request)
        if not request.batches:
            return None
        batch = request.begin()
        self._serve(batch.tokens)
        if request.batches:
            heapq.heappush(self.requests, request)
        return batch

    def _start_first(self, request: "_Request[Work]") -> None:
        """Mark the request's first batch as running, and drop those before it that were cancelled."""
        dropped = 0
        while request.batches and not request.batches[0].future.set_running_or_notify_cancel():
            dropped += request.batches.popleft().tokens
        if dropped and request.end in self._ends:
            self._ends.remove(request.end)
            request.end = max(request.end - dropped, self._equal_share)
            self._ends.append(request.end)
            heapq.heapify(self._ends)

    def _serve(self, tokens: float) -> None:
        """Advance the equal share by the tokens that were served."""
        while self._ends:
            until_next_end = (self._ends[0] - self._equal_share) * len(self._ends)
            if tokens < until_next_end:
                self._equal_share += tokens / len(self._ends)
                return
            tokens -= until_next_end
            self._equal_share = heapq.heappop(self._ends)


@dataclass(order=True, slots=True)
class _Request(Generic[Work]):
    """The batches of a request that have not begun. The one with the lowest tag is served first."""

    tag: float
    number: int
    """Order of arrival."""
    start: float = field(compare=False)
    """The equal share at arrival."""
    end: float = field(compare=False)
    """The equal share at which the request would be done."""
    batches: deque[WaitingBatch[Work]] = field(compare=False)
    turn_end: int = field(compare=False)
    """Largest value of `begun` in the current turn."""
    begun: int = field(default=0, compare=False)
    """Tokens of the batches that have begun."""

    def begin(self) -> WaitingBatch[Work]:
        """Take the first batch. If the next one does not fit into the turn, the turn ends."""
        batch = self.batches.popleft()
        self.begun += batch.tokens
        if self.batches and self.begun + self.batches[0].tokens > self.turn_end:
            self.tag = self.start + self.begun
            self.turn_end = self.begun + TURN_TOKENS
        return batch
