"""`TensorStats`: statistics of one tensor on calibration pairs."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .token_moments import TokenMoments

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TensorStats:
    """Statistics of one tensor on calibration pairs.

    `rows`, float32 [tokens, channels], is a uniform sample of its tokens. `low` and `high`, float32 [channels], are the minimum
    and maximum of each channel over all tokens. `moments`, which are from more tokens than `rows`, exist only if linear layers
    read the tensor.
    """

    rows: Floats
    low: Floats
    high: Floats
    moments: TokenMoments | None = None

    @property
    def magnitude(self) -> Floats:
        """The largest magnitude of each channel, float32 [channels]."""
        return np.maximum(-self.low, self.high)
