"""`TensorStats`: what calibration saw of one tensor."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TensorStats:
    """What calibration saw of one tensor.

    `rows` float32 [tokens, channels] is a uniform sample of its tokens, `low` and `high` float32 [channels] the least and
    the greatest value of each channel over all of them.
    """

    rows: Floats
    low: Floats
    high: Floats

    @property
    def magnitude(self) -> Floats:
        """The largest magnitude of each channel, float32 [channels]."""
        return np.maximum(-self.low, self.high)
