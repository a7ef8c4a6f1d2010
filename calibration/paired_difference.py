"""`PairedDifference`: a measure of the reference and of the candidate, with a confidence interval of the difference."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RESAMPLES = 10_000
DRAWS = 4_000_000
"""Maximum number of queries drawn at once. They take 64 MB, for any number of queries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """A measure's mean over the queries, for the reference and for the candidate.

    `low` and `high` are the 95 % confidence interval of candidate - reference, from a paired bootstrap over the queries.
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
        # The percentile bootstrap of Efron (1979). The seed is fixed, so that reports can be reproduced.
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
