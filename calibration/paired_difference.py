"""`PairedDifference`: a measure before and after, with the uncertainty of the difference."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RESAMPLES = 10_000
DRAWS = 4_000_000
"""Most queries drawn at once: 64 MB, whatever the number of queries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """A measure's mean over the queries, by the reference and by the candidate.

    `low` and `high` are the 95 % interval of candidate - reference, by a paired bootstrap over the queries.
    """

    reference: float
    candidate: float
    low: float
    high: float

    @property
    def difference(self) -> float:
        """Candidate - reference."""
        return self.candidate - self.reference

    @classmethod
    def of(cls, reference: npt.ArrayLike, candidate: npt.ArrayLike) -> "PairedDifference":
        """Compare two arrays [queries]."""
        before, after = np.asarray(reference, dtype=np.float64), np.asarray(candidate, dtype=np.float64)
        differences = after - before
        # The percentile bootstrap of Efron (1979), resampled with a fixed seed, so that a report can be reproduced.
        rng, queries = np.random.default_rng(0), len(differences)
        rows = max(1, DRAWS // queries)
        means = np.concatenate(
            [
                differences[rng.integers(0, queries, (min(rows, RESAMPLES - start), queries))].mean(axis=1)
                for start in range(0, RESAMPLES, rows)
            ]
        )
        low, high = np.quantile(means, (0.025, 0.975))
        return cls(reference=float(before.mean()), candidate=float(after.mean()), low=float(low), high=float(high))
