"""`TokenizerPool`: threads that tokenize large jobs piece by piece, the most urgent job first."""

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import PriorityQueue
from typing import Generic, TypeVar

from ..dialects.job import Pair

THREADS = 2
PIECE_TEXTS = 256
PIECE_CHARACTERS = 1 << 18
"""Most characters of a piece, which has at least one text. crossrt's own tokenizer takes 5 ms for this many, Hugging Face's 60
ms."""
SECONDS_A_CHARACTER = 1e-6
"""Seconds per character by which a job's due time is later than its arrival. A job of 8 MB lets smaller jobs go first that arrive
within about eight seconds. Later ones do not delay it."""

Item = TypeVar("Item")


class TokenizerPool(Generic[Item]):
    """Lets items take turns. `work` tokenizes one piece of an item, and tells whether the item is done.

    After each piece, the item with the lowest priority number is next, and of equal priorities the one that is due earlier. Any
    thread may call `add`.
    """

    def __init__(self, work: Callable[[Item], bool]) -> None:
        self._work = work
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="crossrt-tokenize")
        self._waiting: PriorityQueue[tuple[int, float, int, Item]] = PriorityQueue()
        self._numbers = itertools.count()

    def add(self, item: Item, *, priority: int, now: float, characters: int) -> None:
        """Queue an item with the given number of characters, which arrived at the time `now`."""
        self._waiting.put((priority, now + SECONDS_A_CHARACTER * characters, next(self._numbers), item))
        self._threads.submit(self._until_one_is_done)

    def close(self) -> None:
        """Wait until all items are done."""
        self._threads.shutdown()

    def _until_one_is_done(self) -> None:
        """Work on the first item in the queue until some item is done. There are as many calls as items, so each finds one."""
        while True:
            first = self._waiting.get()
            if self._work(first[-1]):
                return
            self._waiting.put(first)


def piece_end(pairs: Sequence[Pair], begin: int) -> int:
    """Return the end of the piece of pairs that begins at `begin`.

    A query is tokenized again in each piece. So a piece has room for at least as many characters of passages as of a long query.
    """
    most, characters = max(PIECE_CHARACTERS, 2 * len(pairs[begin][0])), 0
    end = min(len(pairs), begin + PIECE_TEXTS)
    last: str | None = None
    for place in range(begin, end):
        query, text = pairs[place]
        characters += len(text) + (0 if query is last else len(query))
        last = query
        if characters > most and place > begin:
            return place
    return end
