"""`scored_in_chunks`: scores any number of items while keeping memory bounded and the device busy."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from .pending import Pending
from .scorer import Scorer

CHUNK = 8192
"""Most pairs that are tokenized and sorted by length together: enough for little padding, few enough for bounded memory."""
GROWTH = 4
"""Growth from one chunk to the next. A small first chunk keeps a fast device from waiting for the tokenizer; large later chunks
need less padding."""

MAX_CHARACTERS = 8_000_000
"""Most characters in a chunk, unless it is a single item. This bounds the memory for passages of a megabyte."""

Item = TypeVar("Item")
Encoded = TypeVar("Encoded")


def scored_in_chunks(
    items: Iterable[Item],
    encode: Callable[[list[Item]], Sequence[Encoded]],
    submit: Callable[[Encoded, bool], Pending],
    scorer: Scorer,
    size: Callable[[Item], int],
    progress: Callable[[int], object] = lambda rows: None,
) -> Iterator[tuple[Encoded, npt.NDArray[np.float32]]]:
    """Score items chunk by chunk, and yield each part of a chunk, in order, with its raw logits, float32 [pairs, labels].

    `encode` turns a chunk of items into parts. `submit` starts to score a part. Its second argument tells whether the caller
    only waits from then on; see `inline` of `Scorer.submit`. A chunk is tokenized while the part before it is computed. `size`
    returns about how many characters an item has. `progress` is called with numbers of finished pairs. Raises what `items`,
    `encode`, `submit` and the scorer raise, after cancelling the submitted parts.
    """
    scorer.check_open()
    waiting: tuple[Encoded, Pending] | None = None
    begun = 0
    try:
        for chunk, last in chunks(items, scorer.first_chunk, size):
            try:
                parts = encode(chunk)
            except InputError as error:
                raise error.after(begun) from error.__cause__
            begun += len(chunk)
            for part in parts:
                pending = submit(part, last and len(parts) == 1 and waiting is None)
                before, waiting = waiting, (part, pending)
                if before is not None:
                    yield before[0], before[1].wait(progress)
        if waiting is not None:
            yield waiting[0], waiting[1].wait(progress)
    except BaseException:
        if waiting is not None:
            waiting[1].cancel()
        raise


def chunks(items: Iterable[Item], first: int, size: Callable[[Item], int]) -> Iterator[tuple[list[Item], bool]]:
    """Yield lists of items, each with whether it is the last one.

    The first list has `first` items. Later lists grow by `GROWTH`, up to `CHUNK`. A list has at most `MAX_CHARACTERS` by `size`,
    unless it is a single item.
    """
    chunk: list[Item] = []
    most, characters = min(first, CHUNK), 0
    for item in items:
        length = size(item)
        if chunk and (len(chunk) == most or characters + length > MAX_CHARACTERS):
            yield chunk, False
            if len(chunk) == most:
                most = min(most * GROWTH, CHUNK)
            chunk, characters = [], 0
        chunk.append(item)
        characters += length
    if chunk:
        yield chunk, True
