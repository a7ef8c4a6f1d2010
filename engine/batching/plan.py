"""`BatchPlan`: how a request is cut into batches on a CPU, sorted by length so that there is little padding."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ..errors import OptionError
from ..text.encoded_pairs import EncodedPairs
from .batch import Batch

BATCH_COST = 8
"""Cost of one more batch, in tokens: the time to start every operator once more. docs/decisions/0008 measured costs of 16 to
256. Smaller costs are faster, with little difference between 64 and 16."""

ROWS = (1, 4, 16)
"""Numbers of rows that a batch may have if there should be few shapes."""
SHORT_ROW_TOKENS = 64
"""Longest row, in tokens, of a batch of sixteen. Four longer rows keep a processor as busy as sixteen."""
BATCH_TOKENS, MIN_TOKENS = 448, 64
"""Tokens of a usual and of the smallest batch without padding. The native kernels take at most 512 tokens at a time."""
MAX_TOKENS = 1024
"""Most tokens of a scorer's batch of several rows, including padding. Other requests wait for a batch that has begun. With 512,
short rows take up to 4 % more time, and with 4,096 long rows take up to 7 % more (docs/decisions/0027)."""
LENGTH_STEPS_SEVERAL_ROWS = ((64, 4), (112, 2), (160, 4), (224, 16), (448, 32))
LENGTH_STEPS_ONE_ROW = ((192, 4), (320, 8))
"""(Largest length, step) for batches of several rows and of one row: lengths up to the first number are rounded up to a multiple
of the second. The steps are finest at the lengths that most passages have. A single row wastes little on padding. See
docs/decisions/0009."""
LENGTH_STEPS_ALL_PROCESSORS = ((192, 8), (320, 16))
"""The same for a batch that all processors compute together. These steps are coarser, because preparing a new shape costs more
than the padding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """The batches of a request: their rows, and the tokens that the rows of each are padded to.

    `lengths` are the pairs' tokens, int64 [n]. `row_groups` are the row numbers of each batch, int64 [batch], and `widths` the
    tokens that it is padded to. The longest pairs come first, so that a lack of memory shows immediately.
    """

    lengths: npt.NDArray[np.int64]
    row_groups: tuple[npt.NDArray[np.int64], ...]
    widths: tuple[int, ...]

    @property
    def padding_waste(self) -> float:
        """Share of the computed tokens that are padding, 0 to 1."""
        computed = sum(len(part) * width for part, width in zip(self.row_groups, self.widths, strict=True))
        return 1 - int(self.lengths.sum()) / computed if computed else 0.0

    def batches(self, pairs: EncodedPairs, *, pad_id: int) -> Iterator[Batch]:
        """Yield the padded batches."""
        for rows, width in zip(self.row_groups, self.widths, strict=True):
            yield Batch.padded(pairs, rows, pad_id, width)


def plan_batches(
    lengths: npt.NDArray[np.int64],
    *,
    batch_size: int,
    streams: int = 1,
    max_tokens: int = 4096,
    batch_cost: int = BATCH_COST,
    bucket_up_to: int = 0,
) -> BatchPlan:
    """Cut pairs of these lengths (int64 [n], tokens) into batches of the least total cost, by dynamic programming.

    A batch costs its tokens with padding plus `batch_cost`. Of all plans that keep the pairs sorted by length, this is the one
    with the least sum. A batch has at most `batch_size` rows and, if it has several rows, at most `max_tokens` tokens with
    padding, which keeps its activations in the processor's caches and bounds its memory. With several `streams` it has at most
    one stream's share of the request's tokens, so that no stream is idle.

    A runtime prepares itself for each new shape. `bucket_up_to`, the model's longest input in tokens, keeps the number of shapes
    small; 0 allows all shapes. Batches then have 1, 4 or, if the rows are short, 16 rows, and lengths are rounded up by a few
    percent, but not beyond that longest input. Raises OptionError for a `batch_size` below one.
    """
    if batch_size < 1:
        raise OptionError(f"batch_size must be a positive integer, got {batch_size}")
    order = np.argsort(-lengths, kind="stable")
    sorted_lengths = lengths[order]
    alone, together = sorted_lengths.tolist(), sorted_lengths.tolist()
    sizes = list(range(1, batch_size + 1))
    max_long_rows = len(sorted_lengths)
    if bucket_up_to:
        alone, together = (
            _rounded_up(sorted_lengths, steps, bucket_up_to)
            for steps in (LENGTH_STEPS_ONE_ROW, LENGTH_STEPS_SEVERAL_ROWS)
        )
        sizes = [size for size in ROWS if size <= batch_size]
        max_long_rows = ROWS[-2]
    if streams > 1:
        max_tokens = min(max_tokens, -(-sum(together) // streams))
    # cost[i] is the least cost of the first i pairs; their last batch begins at begins[i].
    cost, begins = [0], [0]
    for stop in range(1, len(sorted_lengths) + 1):
        best, best_begin = cost[stop - 1] + alone[stop - 1], stop - 1
        for size in sizes[1:]:
            begin = stop - size
            if (
                begin < 0
                or size * together[begin] > max_tokens
                or (size > max_long_rows and together[begin] > SHORT_ROW_TOKENS)
            ):
                break
            if cost[begin] + size * together[begin] < best:
                best, best_begin = cost[begin] + size * together[begin], begin
        cost.append(best + batch_cost)
        begins.append(best_begin)
    borders = [len(sorted_lengths)]
    while borders[-1]:
        borders.append(begins[borders[-1]])
    cuts = list(pairwise(reversed(borders)))
    return BatchPlan(
        lengths=lengths,
        row_groups=tuple(order[start:stop] for start, stop in cuts),
        widths=tuple(alone[start] if stop - start == 1 else together[start] for start, stop in cuts),
    )


def plan_unpadded(lengths: npt.NDArray[np.int64], *, batch_size: int, streams: int = 1) -> BatchPlan:
    """Cut pairs of these lengths (int64 [n], tokens) into batches for kernels that compute no padding.

    A batch has about `BATCH_TOKENS` tokens, which share one pass over each layer's weights, and at most `batch_size` rows. With
    several `streams` the last batches are smaller, so that all streams finish at nearly the same time.
    """
    order = np.argsort(-lengths, kind="stable")
    sorted_lengths = lengths[order].tolist()
    rest = sum(sorted_lengths)
    borders, room = [0], 0
    for row, length in enumerate(sorted_lengths):
        if row and (row - borders[-1] == batch_size or 2 * room < length):
            borders.append(row)
        if row == borders[-1]:
            room = BATCH_TOKENS if streams == 1 else min(BATCH_TOKENS, max(MIN_TOKENS, rest // streams))
        room -= length
        rest -= length
    cuts = list(pairwise([*borders, len(order)])) if len(order) else []
    return BatchPlan(
        lengths=lengths,
        row_groups=tuple(order[start:stop] for start, stop in cuts),
        widths=tuple(sorted_lengths[start] for start, _ in cuts),
    )


def plan_single_batch(lengths: npt.NDArray[np.int64], *, bucket_up_to: int) -> BatchPlan:
    """Put all pairs into one batch. There must be at least one pair. `bucket_up_to` is as in `plan_batches`."""
    (width,) = _rounded_up(lengths.max(keepdims=True), LENGTH_STEPS_ALL_PROCESSORS, bucket_up_to)
    return BatchPlan(lengths=lengths, row_groups=(np.argsort(-lengths, kind="stable"),), widths=(width,))


def _rounded_up(lengths: npt.NDArray[np.int64], steps: Sequence[tuple[int, int]], end: int) -> list[int]:
    """Round lengths up to `steps`, but not beyond `end`. A length that is already beyond `end` stays as it is."""
    borders, sizes = zip(*steps, strict=True)
    size = np.array([*sizes, 2 * sizes[-1]])[np.searchsorted(borders, lengths)]
    rounded: list[int] = np.maximum(lengths, np.minimum(-(-lengths // size) * size, end)).tolist()
    return rounded
