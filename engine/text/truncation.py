"""`TruncationCounter`: how many pairs were cut because they were longer than the model takes."""

import os
import threading
from dataclasses import dataclass

import numpy as np

from .encoded_pairs import EncodedPairs


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncation:
    """Of `pairs` tokenized pairs, `cut` pairs lost tokens, `tokens` in total."""

    pairs: int = 0
    cut: int = 0
    tokens: int = 0

    def __add__(self, other: "Truncation") -> "Truncation":
        return Truncation(pairs=self.pairs + other.pairs, cut=self.cut + other.cut, tokens=self.tokens + other.tokens)

    def since(self, before: "Truncation") -> "Truncation":
        """Return what was counted after `before`."""
        return Truncation(
            pairs=self.pairs - before.pairs, cut=self.cut - before.cut, tokens=self.tokens - before.tokens
        )

    def of_one(self, repeats: int) -> "Truncation":
        """Return the counts for one of `repeats` copies of the same pairs."""
        return Truncation(pairs=self.pairs // repeats, cut=self.cut // repeats, tokens=self.tokens // repeats)


_lock = threading.Lock()
"""Guards the totals of all counters. A forked process gets a new lock, because a thread of its parent may have held the old
one."""


class TruncationCounter:
    """Counts pairs and the tokens that they lost. Several threads may add and read at once, also in a forked process."""

    def __init__(self) -> None:
        self._total = Truncation()

    @property
    def total(self) -> Truncation:
        """What was counted so far."""
        return self._total

    def add(self, pairs: EncodedPairs) -> None:
        """Count these pairs."""
        cut = pairs.cut
        tokens = 0 if cut is None else int(cut.sum())
        lost = int(np.count_nonzero(cut)) if cut is not None and tokens else 0
        with _lock:
            self._total += Truncation(pairs=len(pairs), cut=lost, tokens=tokens)


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
