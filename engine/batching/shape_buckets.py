"""`ShapeBuckets`: rounds padded batches to few shapes, so that each can have a CUDA graph."""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ..bundle.profiles import Shape

SEQUENCES = (16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512)
ROWS = (1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128)


@dataclass(frozen=True, slots=True)
class ShapeBuckets:
    """Rounds shapes up to `SEQUENCES` and `ROWS`, within the shapes that an engine takes.

    `limits` are pairs (most rows, most tokens of a row), in ascending order of tokens.
    """

    limits: Sequence[Shape]
    _sequences: npt.NDArray[np.int64] = field(init=False, repr=False, compare=False)
    """The rounded length for every length from 0."""
    _rows: Sequence[int] = field(init=False, repr=False, compare=False)
    """The rounded number of rows for every number of rows from 0."""

    def __post_init__(self) -> None:
        # A length is not rounded beyond its own limit: fewer rows may fit into the next one.
        sequences = [min(_up(length, SEQUENCES), self._end(length)) for length in range(self.max_length + 1)]
        object.__setattr__(self, "_sequences", np.array(sequences, dtype=np.int64))
        object.__setattr__(self, "_rows", [_up(rows, ROWS) for rows in range(max(most for most, _ in self.limits) + 1)])

    @property
    def max_length(self) -> int:
        """Tokens of the longest row that fits."""
        return self.limits[-1][1]

    def rows(self, sequence: int) -> int:
        """Return the largest number of rows of this length that fits."""
        return next(rows for rows, max_length in self.limits if sequence <= max_length)

    def rounded(self, shape: Shape) -> Shape:
        """Return the shape to compute a batch of this shape with. `shape` must be within the limits; the result is too."""
        rows, sequence = shape
        return min(self._rows[rows], self.rows(sequence)), int(self._sequences[sequence])

    def split(self, lengths: npt.NDArray[np.int64], *, batch_cost: int, shares: int = 1) -> list[npt.NDArray[np.int64]]:
        """Cut pairs of these lengths (int64 [n], tokens, none longer than `max_length`) into batches of the least total cost.

        Returns the rows of each batch, the longest pairs first. Pairs of equal rounded length stay together; dynamic programming
        decides which neighbouring groups share batches. A batch costs its computed tokens, with padding by tokens and by rows,
        plus `batch_cost`. With several `shares` no batch has more than one share of the request's tokens, so that no device is
        idle.
        """
        if len(lengths) <= 1:
            return [np.zeros(1, dtype=np.int64)] * len(lengths)
        order = np.argsort(-lengths, kind="stable")
        rounded = self._sequences[lengths[order]]
        share = -(-int(rounded.sum()) // shares)
        changes = np.flatnonzero(np.diff(rounded)) + 1
        starts, ends = [0, *changes.tolist()], [*changes.tolist(), len(order)]
        sequences = rounded[starts].tolist()
        limits = [self.rows(sequence) for sequence in sequences]
        mosts = [max(1, min(limit, -(-share // sequence))) for limit, sequence in zip(limits, sequences, strict=True)]
        fulls = [min(self._rows[most], limit) for most, limit in zip(mosts, limits, strict=True)]
        # cost[i] is the least cost of the first i groups; the groups from begins[i] to i share the last batches.
        cost, begins = [0], [0]
        for end in ends:
            best, last = None, 0
            for begin in range(len(cost)):
                full, rest = divmod(end - starts[begin], mosts[begin])
                rows = full * fulls[begin] + (min(self._rows[rest], limits[begin]) if rest else 0)
                total = cost[begin] + rows * sequences[begin] + batch_cost * (full + (rest > 0))
                if best is None or total < best:
                    best, last = total, begin
            assert best is not None
            cost.append(best)
            begins.append(last)
        parts: list[npt.NDArray[np.int64]] = []
        stop = len(ends)
        while stop:
            begin = begins[stop]
            rows_of = order[starts[begin] : ends[stop - 1]]
            parts[:0] = [rows_of[at : at + mosts[begin]] for at in range(0, len(rows_of), mosts[begin])]
            stop = begin
        return parts

    def _end(self, sequence: int) -> int:
        return next(max_length for _, max_length in self.limits if sequence <= max_length)


def _up(value: int, steps: Sequence[int]) -> int:
    place = bisect.bisect_left(steps, value)
    return steps[place] if place < len(steps) else -(-value // steps[-1]) * steps[-1]
