"""`Agreement`: how far the best ten of a ranking are those of the baseline."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

TOP = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Over the queries that have candidates: `kept` is the mean share of the baseline's ten best passages that are among the
    ranking's ten best, and `same` the share of the queries whose ten best are the same passages in the same order.
    """

    kept: float
    same: float

    @classmethod
    def of(cls, rankings: Iterable[tuple[Sequence[str], Sequence[str]]]) -> "Agreement":
        """Compare pairs of rankings, the baseline's and the other, of which there is at least one. Each is best first."""
        tens = [(theirs[:TOP], ours[:TOP]) for theirs, ours in rankings]
        return cls(
            kept=float(np.mean([len({*theirs} & {*ours}) / len(theirs) for theirs, ours in tens])),
            same=float(np.mean([[*theirs] == [*ours] for theirs, ours in tens])),
        )
