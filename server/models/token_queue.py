"""`TokenQueue`: bounds the tokens that wait for a model, and measures how fast it scores them."""

import math
import time
from collections.abc import Callable

from ..dialects.request_error import RequestError

MEMORY = 30.0
"""Seconds of work after which a measurement of speed has lost two thirds of its weight."""
LONGEST_WAIT = 600


class TokenQueue:
    """Tokens of requests that were accepted and are not answered yet. Used in the event loop's thread alone.

    A request is accepted or refused as a whole. One that is alone is accepted whatever its size, so that each that is within the
    limit of one request can be served.
    """

    def __init__(self, limit: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self.tokens = 0
        self.requests = 0
        self._clock = clock
        self._last = clock()
        self._scored = self._busy = 0.0

    def admit(self, tokens: int) -> None:
        """Accept a request of about so many tokens. Raises RequestError, which says when to try again, where it does not fit."""
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
        """Replace the estimate of an accepted request by what was counted."""
        self.tokens += counted - tokens

    def release(self, tokens: int, *, scored: int) -> None:
        """Forget a request, of whose tokens some were scored."""
        self._pass_time()
        self._scored += scored
        self.tokens -= tokens
        self.requests -= 1

    @property
    def tokens_per_second(self) -> float:
        """What the model scored in each second in which it had work, mostly of late; 0 before anything was measured."""
        return self._scored / self._busy if self._busy > 0 else 0.0

    @property
    def wait(self) -> int:
        """Seconds until the tokens that wait now are scored, at least 1."""
        speed = self.tokens_per_second
        return min(max(1, math.ceil(self.tokens / speed)), LONGEST_WAIT) if speed else 1

    def _pass_time(self) -> None:
        """Count the time since `_last`, in which there was work."""
        now = self._clock()
        elapsed, self._last = now - self._last, now
        kept = math.exp(-elapsed / MEMORY)
        self._scored *= kept
        self._busy = self._busy * kept + elapsed
