"""How a request is cut into batches: sorted by length, so that padding and the number of batches together cost least."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .errors import OptionError
from .template import EncodedPairs

BATCH_COST = 16
"""What a batch costs beside its tokens, in tokens: starting every operator once more. See docs/design.md."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Padded arrays, ready for a model, and the `rows` of the request that they hold.

    `input_ids`, `attention_mask` and `token_type_ids` are int64 [batch, seq]; `rows` is int64 [batch].
    """

    input_ids: npt.NDArray[np.int64]
    attention_mask: npt.NDArray[np.int64]
    token_type_ids: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]

    @classmethod
    def padded(cls, pairs: EncodedPairs, rows: npt.NDArray[np.int64], pad_id: int) -> "Batch":
        """Pad these rows of a request to the longest of them."""
        lengths = pairs.lengths[rows]
        shape = (len(rows), int(lengths.max()))
        real = np.arange(shape[1]) < lengths[:, None]
        # The tokens of all rows, in row order: exactly the cells that `real` marks.
        starts = pairs.offsets[rows]
        source = np.repeat(starts - np.concatenate(([0], np.cumsum(lengths)[:-1])), lengths) + np.arange(lengths.sum())
        input_ids = np.full(shape, pad_id, dtype=np.int64)
        input_ids[real] = pairs.ids[source]
        token_type_ids = np.zeros(shape, dtype=np.int64)
        token_type_ids[real] = pairs.type_ids[source]
        return cls(input_ids=input_ids, attention_mask=real.astype(np.int64), token_type_ids=token_type_ids, rows=rows)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and padded tokens of each row."""
        return self.input_ids.shape[0], self.input_ids.shape[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """Which rows go together. Made by `plan`; the longest come first, so that a lack of memory shows at once."""

    lengths: npt.NDArray[np.int64]
    parts: tuple[npt.NDArray[np.int64], ...]

    @property
    def padding_waste(self) -> float:
        """Share of the computed tokens that are padding, 0 to 1."""
        computed = sum(len(part) * int(self.lengths[part].max()) for part in self.parts)
        return 1 - int(self.lengths.sum()) / computed if computed else 0.0

    def batches(self, pairs: EncodedPairs, *, pad_id: int) -> Iterator[Batch]:
        """Pad each part to its own longest pair."""
        for rows in self.parts:
            yield Batch.padded(pairs, rows, pad_id)


def plan(
    lengths: npt.NDArray[np.int64],
    *,
    batch_size: int,
    streams: int = 1,
    max_tokens: int = 4096,
    batch_cost: int = BATCH_COST,
) -> BatchPlan:
    """Cut pairs of these lengths (int64 [n], tokens) into the batches that cost least.

    A batch costs its tokens with padding, plus `batch_cost` tokens for being one more; the plan has the least sum of
    all that keep the pairs sorted by length. A batch has at most `batch_size` rows and, from two rows on, at most
    `max_tokens` tokens with padding, which keeps its activations in the processor's caches and its memory bounded;
    with several `streams` at most their share of the request, so that each has something to do. Raises OptionError for
    a `batch_size` below one.
    """
    if batch_size < 1:
        raise OptionError(f"batch_size must be a positive integer, got {batch_size}")
    if streams > 1:
        max_tokens = min(max_tokens, -(-int(lengths.sum()) // streams))
    order = np.argsort(-lengths, kind="stable")
    longest = lengths[order].tolist()
    # cost[i] is the least for the first i pairs, whose last batch begins at begins[i].
    cost, begins = [0], [0]
    for stop in range(1, len(longest) + 1):
        begin = stop - 1
        best, best_begin = cost[begin] + longest[begin], begin
        while begin > 0 and stop - begin < batch_size:
            begin -= 1
            tokens = (stop - begin) * longest[begin]
            if tokens > max_tokens:
                break
            if cost[begin] + tokens < best:
                best, best_begin = cost[begin] + tokens, begin
        cost.append(best + batch_cost)
        begins.append(best_begin)
    parts = []
    stop = len(longest)
    while stop:
        parts.append(order[begins[stop] : stop])
        stop = begins[stop]
    return BatchPlan(lengths=lengths, parts=tuple(reversed(parts)))
