"""`ScoreError`: how far the scores of a cheaper precision lie from the reference's."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import OptionError

Floats = npt.NDArray[np.floating]

QUANTILE = 0.999
"""Share of the judged pairs whose score is too low by no more than `underestimate`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreError:
    """The error of one precision in one backend, over `pairs` judged pairs, in units of the relevance before activation.

    The error of a pair is its reference score less its own. `rms` is the root mean square of the errors. `underestimate`
    is their quantile 0.999: by how much a score may be too low. Raises OptionError for what cannot be such an error.
    """

    rms: float
    underestimate: float
    pairs: int

    def __post_init__(self) -> None:
        if not (0 <= self.rms < np.inf and 0 <= self.underestimate < np.inf and self.pairs >= 1):
            raise OptionError(f"{self} is no error of scores: expected finite numbers from 0 on, and at least one pair")

    @classmethod
    def of(cls, reference: Floats, scores: Floats) -> "ScoreError":
        """Measure the error of `scores` [pairs] beside the `reference` [pairs]. Both are finite."""
        errors = reference.astype(np.float64) - scores
        return cls(
            rms=float(np.sqrt((errors**2).mean())),
            underestimate=max(0.0, float(np.quantile(errors, QUANTILE))),
            pairs=len(errors),
        )

    def margin(self, observed: Floats) -> float:
        """Return by how much a score may be too low, after the errors `observed` of some pairs of the same request.

        It is `underestimate`, scaled up where the observed errors are larger than the judged ones were, as they are for
        texts unlike those, and never less than the largest of them.
        """
        if not len(observed) or not np.isfinite(observed).all():
            return self.underestimate
        rms = float(np.sqrt((observed.astype(np.float64) ** 2).mean()))
        scale = max(1.0, rms / self.rms) if self.rms else (1.0 if rms == 0 else np.inf)
        margin = self.underestimate * scale if self.underestimate else 0.0
        return max(margin, float(observed.max()))
