"""`Tokenizing`: threads that tokenize large jobs piece by piece, the most urgent job first."""

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import PriorityQueue
from typing import Generic, TypeVar

from ..dialects.job import Pair

THREADS = 2
PIECE_TEXTS = 256
PIECE_CHARACTERS = 1 << 18
"""Most of a piece, which has at least one text. crossrt's own tokenizer takes 5 ms for so many characters, Hugging Face's 60."""
SECONDS_A_CHARACTER = 1e-6
"""How much later than it came a job counts as due. A job of 8 MB lets all smaller ones go first that come in about eight
seconds, and is not held up by later ones."""

Item = TypeVar("Item")


class Tokenizing(Generic[Item]):
    """Takes turns: `work` tokenizes one piece of an item, and tells whether the item is done. Any thread may call `add`.

    Between two pieces an item with a lower priority goes first, and of one priority the item that is due earlier.
    """

    def __init__(self, work: Callable[[Item], bool]) -> None:
        self._work = work
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="crossrt-tokenize")
        self._waiting: PriorityQueue[tuple[int, float, int, Item]] = PriorityQueue()
        self._numbers = itertools.count()

    def add(self, item: Item, *, priority: int, now: float, characters: int) -> None:
        """Tokenize an item of so many characters, which came `now`."""
        self._waiting.put((priority, now + SECONDS_A_CHARACTER * characters, next(self._numbers), item))
        self._threads.submit(self._until_one_is_done)

    def close(self) -> None:
        """Wait until all items are done."""
        self._threads.shutdown()

    def _until_one_is_done(self) -> None:
        """Work on what is first until some item is done. There are as many calls as items, so each finds one."""
        while True:
            first = self._waiting.get()
            if self._work(first[-1]):
                return
            self._waiting.put(first)


def piece_end(pairs: Sequence[Pair], begin: int) -> int:
    """Return where the piece of pairs that begins there ends.

    A query is tokenized in each piece, so that a piece has at least as many characters of passages as of a long query.
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
