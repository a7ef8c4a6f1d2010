"""How a request is cut into batches: sorted by length, so that padding and the number of batches together cost least."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ..errors import OptionError
from ..text.encoded_pairs import EncodedPairs
from .batch import Batch

BATCH_COST = 8
"""What a batch costs beside its tokens, in tokens: starting every operator once more. See docs/decisions/0008."""

ROWS = (1, 4, 16)
SHORT = 64
"""Tokens up to which sixteen rows go together: of longer ones four keep a processor as busy."""
TOGETHER, LEAST = 448, 64
"""Tokens of a batch without padding, of which the native kernels take 512, and of the smallest that streams are left to share."""
STEPS_TOGETHER = ((64, 4), (112, 2), (160, 4), (224, 16), (448, 32))
STEPS_ALONE = ((192, 4), (320, 8))
"""Up to so many tokens, lengths are rounded up to a multiple of so many. A row alone wastes little by it, and
the steps are finest where most passages are: see docs/decisions/0009."""
STEPS_WIDE = ((192, 8), (320, 16))
"""So where all processors compute one batch: a new shape costs them more than this padding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """Which rows go together, and the tokens that each row is padded to. Made by `plan`; the longest come first, so that
    a lack of memory shows at once."""

    lengths: npt.NDArray[np.int64]
    row_groups: tuple[npt.NDArray[np.int64], ...]
    widths: tuple[int, ...]

    @property
    def padding_waste(self) -> float:
        """Share of the computed tokens that are padding, 0 to 1."""
        computed = sum(len(part) * width for part, width in zip(self.row_groups, self.widths, strict=True))
        return 1 - int(self.lengths.sum()) / computed if computed else 0.0

    def batches(self, pairs: EncodedPairs, *, pad_id: int) -> Iterator[Batch]:
        """Pad each part to its width."""
        for rows, width in zip(self.row_groups, self.widths, strict=True):
            yield Batch.padded(pairs, rows, pad_id, width)


def plan_batches(
    lengths: npt.NDArray[np.int64],
    *,
    batch_size: int,
    streams: int = 1,
    max_tokens: int = 4096,
    batch_cost: int = BATCH_COST,
    few_shapes_to: int = 0,
) -> BatchPlan:
    """Cut pairs of these lengths (int64 [n], tokens) into the batches that cost least.

    A batch costs its tokens with padding, plus `batch_cost` tokens for being one more; the plan has the least sum of
    all that keep the pairs sorted by length. A batch has at most `batch_size` rows and, from two rows on, at most
    `max_tokens` tokens with padding, which keeps its activations in the processor's caches and its memory bounded;
    with several `streams` at most their share of the request, so that each has something to do.

    A runtime prepares itself for each new shape. `few_shapes_to`, the model's longest input, makes them few: one row or
    four, or sixteen short ones, and tokens rounded up in steps of a few hundredths of them, but never beyond the longest
    input. Raises OptionError for a `batch_size` below one.
    """
    if batch_size < 1:
        raise OptionError(f"batch_size must be a positive integer, got {batch_size}")
    order = np.argsort(-lengths, kind="stable")
    longest = lengths[order]
    alone, together = longest.tolist(), longest.tolist()
    sizes = list(range(1, batch_size + 1))
    most = len(longest)
    if few_shapes_to:
        alone, together = (_rounded_up(longest, steps, few_shapes_to) for steps in (STEPS_ALONE, STEPS_TOGETHER))
        sizes = [size for size in ROWS if size <= batch_size]
        most = ROWS[-2]
    if streams > 1:
        max_tokens = min(max_tokens, -(-sum(together) // streams))
    # cost[i] is the least for the first i pairs, whose last batch begins at begins[i].
    cost, begins = [0], [0]
    for stop in range(1, len(longest) + 1):
        best, best_begin = cost[stop - 1] + alone[stop - 1], stop - 1
        for size in sizes[1:]:
            begin = stop - size
            if begin < 0 or size * together[begin] > max_tokens or (size > most and together[begin] > SHORT):
                break
            if cost[begin] + size * together[begin] < best:
                best, best_begin = cost[begin] + size * together[begin], begin
        cost.append(best + batch_cost)
        begins.append(best_begin)
    borders = [len(longest)]
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

    A batch has about `TOGETHER` tokens, for which a layer's weights are fetched once, and at most `batch_size` rows. With
    several `streams` the last batches are smaller, so that all streams end at nearly the same time.
    """
    order = np.argsort(-lengths, kind="stable")
    sorted_lengths = lengths[order].tolist()
    rest = sum(sorted_lengths)
    borders, room = [0], 0
    for row, length in enumerate(sorted_lengths):
        if row and (row - borders[-1] == batch_size or 2 * room < length):
            borders.append(row)
        if row == borders[-1]:
            room = TOGETHER if streams == 1 else min(TOGETHER, max(LEAST, rest // streams))
        room -= length
        rest -= length
    cuts = list(pairwise([*borders, len(order)])) if len(order) else []
    return BatchPlan(
        lengths=lengths,
        row_groups=tuple(order[start:stop] for start, stop in cuts),
        widths=tuple(sorted_lengths[start] for start, _ in cuts),
    )


def plan_single_batch(lengths: npt.NDArray[np.int64], *, few_shapes_to: int) -> BatchPlan:
    """Put all pairs, at least one, into one batch; `few_shapes_to` is as in `plan`."""
    (width,) = _rounded_up(lengths.max(keepdims=True), STEPS_WIDE, few_shapes_to)
    return BatchPlan(lengths=lengths, row_groups=(np.argsort(-lengths, kind="stable"),), widths=(width,))


def _rounded_up(lengths: npt.NDArray[np.int64], steps: Sequence[tuple[int, int]], end: int) -> list[int]:
    """Round up in steps that grow with the length, but not beyond `end`, nor below the length itself."""
    borders, sizes = zip(*steps, strict=True)
    size = np.array([*sizes, 2 * sizes[-1]])[np.searchsorted(borders, lengths)]
    rounded: list[int] = np.maximum(lengths, np.minimum(-(-lengths // size) * size, end)).tolist()
    return rounded
