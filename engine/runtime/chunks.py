"""`scored_in_chunks`: scores any number of items while keeping memory bounded and the device busy."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ..text.encoded_pairs import EncodedPairs
from .pending import Pending
from .scorer import Scorer

CHUNK = 8192
"""Pairs tokenized and sorted by length together: enough for little padding, few enough for bounded memory."""
GROWTH = 4
"""Factor from one chunk to the next. A small first chunk keeps a fast device from waiting for the tokenizer; large later chunks
leave less padding."""

Item = TypeVar("Item")


def scored_in_chunks(
    items: Iterable[Item],
    encode: Callable[[list[Item]], EncodedPairs],
    scorer: Scorer,
    *,
    labels: int,
    batch_size: int,
    progress: Callable[[int], object] = lambda rows: None,
) -> npt.NDArray[np.float32]:
    """Return the raw logits of items in their order, float32 [n, labels]. `encode` turns a chunk of items into encoded pairs.

    A chunk is tokenized while the chunk before it is computed. `progress` is called with numbers of finished pairs. Raises what
    `items`, `encode` and the scorer raise, after the chunks that were submitted are cancelled.
    """
    scorer.check_open()
    logits: list[npt.NDArray[np.float32]] = []
    pending: Pending | None = None
    try:
        for chunk, last in chunks(items, scorer.first_chunk):
            pairs = encode(chunk)
            submitted = scorer.submit(pairs, batch_size=batch_size, inline=last and pending is None)
            before, pending = pending, submitted
            if before is not None:
                logits.append(before.wait(progress))
        if pending is not None:
            logits.append(pending.wait(progress))
    except BaseException:
        if pending is not None:
            pending.cancel()
        raise
    return np.concatenate(logits) if logits else np.zeros((0, labels), dtype=np.float32)


def chunks(items: Iterable[Item], first: int) -> Iterator[tuple[list[Item], bool]]:
    """Yield lists of items, the first of `first` items and each next one larger, with whether it is the last list."""
    items, size, nothing = iter(items), min(first, CHUNK), object()
    ahead: Any = next(items, nothing)
    while ahead is not nothing:
        chunk = [ahead, *islice(items, size - 1)]
        ahead = next(items, nothing)
        yield chunk, ahead is nothing
        size = min(size * GROWTH, CHUNK)
