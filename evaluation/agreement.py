"""`Agreement`: how far the ten best passages of a ranking agree with the baseline's."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

TOP = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Agreement of a ranking with the baseline, over the queries that have candidates.

    `kept` is the mean share of the baseline's ten best passages that are among the ranking's ten best. `same` is the share of
    queries whose ten best are the same passages in the same order.
    """

    kept: float
    same: float

    @classmethod
    def of(cls, rankings: Iterable[tuple[Sequence[str], Sequence[str]]]) -> "Agreement":
        """Compare at least one pair of rankings, each the baseline's and another. Each ranking is best first."""
        tens = [(theirs[:TOP], ours[:TOP]) for theirs, ours in rankings]
        return cls(
            kept=float(np.mean([len({*theirs} & {*ours}) / len(theirs) for theirs, ours in tens])),
            same=float(np.mean([[*theirs] == [*ours] for theirs, ours in tens])),
        )
