"""`scored_in_chunks`: scores any number of items while keeping memory bounded and the device busy."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from .pending import Pending
from .scorer import Scorer

CHUNK = 8192
"""Pairs tokenized and sorted by length together: enough for little padding, few enough for bounded memory."""
GROWTH = 4
"""Factor from one chunk to the next. A small first chunk keeps a fast device from waiting for the tokenizer; large later chunks
leave less padding."""

MOST_CHARACTERS = 8_000_000
"""Characters of the texts of a chunk, of which there is at least one: passages of a megabyte come a few at a time."""

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
    """Yield the parts of chunks of items, in their order, as `encode` returns them, with the raw logits of their pairs
    [pairs, labels].

    `submit` starts to score a part, and is told whether the caller only waits from then on: see `inline` of `Scorer.submit`. A
    chunk is tokenized while the part before it is computed. `size` says about how many characters an item has. `progress` is
    called with numbers of finished pairs. Raises what `items`, `encode`, `submit` and the scorer raise, after the parts that
    were submitted are cancelled.
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
    """Yield lists of items, with whether it is the last: the first has `first` items, each next one more.

    None has more than `MOST_CHARACTERS` by `size`, unless it is one item.
    """
    chunk: list[Item] = []
    most, characters = min(first, CHUNK), 0
    for item in items:
        length = size(item)
        if chunk and (len(chunk) == most or characters + length > MOST_CHARACTERS):
            yield chunk, False
            if len(chunk) == most:
                most = min(most * GROWTH, CHUNK)
            chunk, characters = [], 0
        chunk.append(item)
        characters += length
    if chunk:
        yield chunk, True
