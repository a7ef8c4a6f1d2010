"""`TokenQueue` limits the tokens that wait for a model, and measures how fast the model scores them."""

import math
import time
from collections.abc import Callable

from ..dialects.request_error import RequestError

DECAY_SECONDS = 30.0
"""Seconds of work after which a speed measurement has lost two thirds of its weight."""
MAX_WAIT_SECONDS = 600


class TokenQueue:
    """Tokens of requests that were accepted and are not answered yet. Only the event loop's thread may use it.

    A request is accepted or refused as a whole. If no other request waits, it is accepted whatever its size, so that every
    request within the limit of a single request can be served.
    """

    def __init__(self, limit: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self.tokens = 0
        self.requests = 0
        self._clock = clock
        self._last = clock()
        self._scored = self._busy = 0.0

    def admit(self, tokens: int) -> None:
        """Accept a request of about `tokens` tokens. Raises RequestError, which says when to try again, if it does not fit."""
        if not self.requests:
            self._last = self._clock()  # time without work is not counted
        elif self.tokens + tokens > self.limit:
            self._pass_time()
            wait = self.wait
            raise RequestError(
                "overloaded",
                f"{self.tokens} tokens wait for this model, and {self.limit} may (--max-queue-tokens); try again in {wait} s",
                retry_after=wait,
            )
        self.tokens += tokens
        self.requests += 1

    def correct(self, tokens: int, counted: int) -> None:
        """Replace the estimate of an accepted request with the counted tokens."""
        self.tokens += counted - tokens

    def release(self, tokens: int, *, scored: int) -> None:
        """Remove a request from the queue. `scored` of its tokens were scored."""
        self._pass_time()
        self._scored += scored
        self.tokens -= tokens
        self.requests -= 1

    @property
    def tokens_per_second(self) -> float:
        """Tokens that the model scores per second of work, weighted towards recent work. 0 before anything was measured."""
        return self._scored / self._busy if self._busy > 0 else 0.0

    @property
    def wait(self) -> int:
        """Estimated seconds until the waiting tokens are scored, from 1 to `MAX_WAIT_SECONDS`."""
        speed = self.tokens_per_second
        return min(max(1, math.ceil(self.tokens / speed)), MAX_WAIT_SECONDS) if speed else 1

    def _pass_time(self) -> None:
        """Count the time since `_last` as time with work."""
        now = self._clock()
        elapsed, self._last = now - self._last, now
        kept = math.exp(-elapsed / DECAY_SECONDS)
        self._scored *= kept
        self._busy = self._busy * kept + elapsed
