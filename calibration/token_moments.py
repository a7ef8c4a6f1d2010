"""`TokenMoments`: second moments of the tokens that linear layers read, which GPTQ needs to round the layers' weights."""

from typing import Any

import numpy as np
import numpy.typing as npt

MIN_NORM = 0.1
"""What is added to the squared norm of each token, as a fraction of the median squared norm."""

Floats = npt.NDArray[Any]


class TokenMoments:
    """The sum of x x^T over tokens x. Each token is divided by the norm of the outputs of the linear layers that read it.

    LayerNorm divides by a similar norm later. Without the division only [CLS] would matter, because its outliers are a hundred
    times as large as the other tokens.
    """

    def __init__(self, channels: int) -> None:
        """Start without tokens."""
        # An additional channel is 1 in each token, so that `of` can shift channels.
        self._sums = np.zeros((channels + 1, channels + 1), dtype=np.float32)
        self._center = np.zeros(channels, dtype=np.float32)
        self._least: float | None = None

    def add(self, rows: Floats, weight: Floats) -> None:
        """Add tokens, float32 [tokens, channels], that layers with the concatenated `weight` [outputs, channels] read.

        The median for `MIN_NORM` is that of the tokens in the first call. So is the mean that is subtracted from all tokens: sums
        of x x^T in FP32 would lose the variance of channels that is small beside their mean.
        """
        if not len(rows):
            return
        squares = np.square(rows @ weight.T).sum(axis=1, dtype=np.float64)
        if self._least is None:
            self._least = max(MIN_NORM * float(np.median(squares)), 1e-12)  # not 0, even if tokens are zeros
            self._center = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        norms = np.sqrt(squares + self._least)
        centered = np.column_stack([rows - self._center, np.ones(len(rows), np.float32)])
        divided = (centered / norms[:, None]).astype(np.float32)
        self._sums += divided.T @ divided

    def of(self, shift: Floats, multipliers: Floats) -> Floats:
        """Return the moments of (x - shift) * multipliers, float64 [channels, channels]. Both are float64 [channels]."""
        sums = self._sums.astype(np.float64)
        shift = shift - self._center
        with_mean = np.outer(sums[:-1, -1], shift)
        shifted = sums[:-1, :-1] - with_mean - with_mean.T + sums[-1, -1] * np.outer(shift, shift)
        return np.asarray(shifted * np.outer(multipliers, multipliers))
