"""`Progress` shows how far a job is, its speed and the time left."""

import sys
import time

from tqdm import tqdm

INTERVAL = 60.0
"""Seconds between two lines in a log."""


class Progress:
    """Shows how many pairs are scored, as a bar on a terminal or as a line per minute on standard error."""

    def __init__(self, total: int, done: int, *, bar: bool, lines: bool) -> None:
        """`done` is the number of pairs that earlier starts of the job scored. They do not count for the speed."""
        self._bar = tqdm(total=total, initial=done, desc="Reranking", unit="pair", disable=not bar)
        self._lines = lines and not bar
        self._total, self._done, self._new = total, done, 0
        self._begin = self._said = time.monotonic()

    def add(self, pairs: int) -> None:
        """Count pairs that were scored."""
        self._done += pairs
        self._new += pairs
        self._bar.update(pairs)
        now = time.monotonic()
        if self._lines and now - self._said >= INTERVAL:
            self._said = now
            print(self.line(now - self._begin), file=sys.stderr, flush=True)

    def line(self, seconds: float) -> str:
        """Return a line with the progress and speed after `seconds` seconds."""
        speed = self._new / seconds if seconds > 0 else 0.0
        left = tqdm.format_interval((self._total - self._done) / speed) if speed else "?"
        return f"{self._done:,} of {self._total:,} pairs, {speed:,.0f} pairs/s, {left} left"

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()
