"""`ScoreErrorStats`: how far the scores of a cheaper precision are from the reference scores."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import OptionError

Floats = npt.NDArray[np.floating]

QUANTILE = 0.999
"""Share of the judged pairs whose error exceeds the mean error by no more than `excess`."""
PRIOR_PAIRS = 4
"""The judged mean error has the weight of this many pairs of the request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreErrorStats:
    """The error of one precision in one backend, over `pairs` judged pairs, in units of the relevance before activation.

    The error of a pair is its reference score minus its score in this precision. `mean` is the mean error. It shifts all scores
    alike and changes no order. `deviation` is the standard deviation of the errors. `excess` is the quantile 0.999 of the errors
    minus their mean: by how much a score may be too low compared with the others.

    Raises OptionError for numbers that no measurement gives.
    """

    mean: float
    deviation: float
    excess: float
    pairs: int

    def __post_init__(self) -> None:
        sizes_allowed = 0 <= self.deviation < np.inf and 0 <= self.excess < np.inf
        if not (sizes_allowed and np.isfinite(self.mean) and self.pairs >= 1):
            raise OptionError(
                f"{self} cannot be measured: expected a finite mean, a deviation and an excess from 0 on, and at least one pair"
            )

    @classmethod
    def of(cls, reference: Floats, scores: Floats) -> "ScoreErrorStats":
        """Measure the error of `scores` [pairs] against the `reference` [pairs]. Both must be finite."""
        errors = reference.astype(np.float64) - scores
        mean = errors.mean()
        return cls(
            mean=float(mean),
            deviation=float(errors.std()),
            excess=max(0.0, float(np.quantile(errors - mean, QUANTILE))),
            pairs=len(errors),
        )

    def margin(self, observed: Floats) -> float:
        """Return by how much a score may be too low, given the errors `observed` [n] of some pairs of the same request.

        It is the mean error of the request plus `excess`. The mean is estimated from the observed errors, and from the judged
        mean if few were observed. `excess` is scaled up if the observed errors spread more than the judged ones, as happens with
        texts unlike the judged ones. The margin is never less than the largest observed error.
        """
        if not len(observed):
            return self.mean + self.excess
        errors = observed.astype(np.float64)
        mean = (errors.sum() + PRIOR_PAIRS * self.mean) / (len(errors) + PRIOR_PAIRS)
        deviation = float(np.sqrt(((errors - mean) ** 2).mean()))
        scale = max(1.0, deviation / self.deviation) if self.deviation else 1.0
        return max(float(mean) + self.excess * scale, float(errors.max()))
