"""`Lattice`: the batch shapes that a GPU is given, so few that each can have a graph of its own."""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .engine_file import Shape

SEQUENCES = (16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512)
ROWS = (1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128)


@dataclass(frozen=True, slots=True)
class Lattice:
    """Rounds shapes up, within what an engine takes: `limits` are (most rows, most tokens of a row), shortest first."""

    limits: Sequence[Shape]

    @property
    def longest(self) -> int:
        """Tokens of the longest row that fits."""
        return self.limits[-1][1]

    def rows(self, sequence: int) -> int:
        """Return the most rows of this length that fit."""
        return next(rows for rows, longest in self.limits if sequence <= longest)

    def rounded(self, shape: Shape) -> Shape:
        """Return the shape to compute: at least this one, and within the limits, as this one must be."""
        rows, sequence = shape
        # Not into the next range, where fewer rows may fit.
        end = next(longest for _, longest in self.limits if sequence <= longest)
        return min(_up(rows, ROWS), self.rows(sequence)), min(_up(sequence, SEQUENCES), end)

    def parts(self, lengths: npt.NDArray[np.int64], *, batch_cost: int, shares: int = 1) -> list[npt.NDArray[np.int64]]:
        """Cut pairs of these lengths (int64 [n], tokens, none longer than `longest`) into batches, longest first.

        Of all ways to put neighbouring rounded lengths together, the one with the least tokens as computed, padding of
        both kinds included, and `batch_cost` tokens for each batch. With several `shares` no batch has more than one of
        them, so that each device has something to do.
        """
        if not len(lengths):
            return []
        order = np.argsort(-lengths, kind="stable")
        rounded = [self.rounded((1, length))[1] for length in lengths[order].tolist()]
        starts = [place for place, length in enumerate(rounded) if place == 0 or length != rounded[place - 1]]
        share = -(-sum(rounded) // shares)
        ends = [*starts[1:], len(order)]
        # cost[i] is the least for the first i groups of equal rounded length, the last batches beginning at begins[i].
        cost, begins = [0], [0]
        for stop, end in enumerate(ends, start=1):
            found = [
                (cost[begin] + self._cost(end - starts[begin], rounded[starts[begin]], batch_cost, share), begin)
                for begin in range(stop)
            ]
            best, begin = min(found)
            cost.append(best)
            begins.append(begin)
        parts: list[npt.NDArray[np.int64]] = []
        stop = len(ends)
        while stop:
            begin = begins[stop]
            rows = order[starts[begin] : ends[stop - 1]]
            most = self._most(rounded[starts[begin]], share)
            parts[:0] = [rows[at : at + most] for at in range(0, len(rows), most)]
            stop = begin
        return parts

    def _most(self, sequence: int, share: int) -> int:
        return max(1, min(self.rows(sequence), -(-share // sequence)))

    def _cost(self, rows: int, sequence: int, batch_cost: int, share: int) -> int:
        full, rest = divmod(rows, self._most(sequence, share))
        computed = full * self.rounded((self._most(sequence, share), sequence))[0]
        if rest:
            computed += self.rounded((rest, sequence))[0]
        return computed * sequence + batch_cost * (full + bool(rest))


def _up(value: int, steps: Sequence[int]) -> int:
    place = bisect.bisect_left(steps, value)
    return steps[place] if place < len(steps) else -(-value // steps[-1]) * steps[-1]
