"""`TokenMoments`: second moments of the tokens that linear layers read, by which their weights are rounded."""

from typing import Any

import numpy as np
import numpy.typing as npt

LEAST_NORM = 0.1
"""The smallest squared norm that a token is divided by, as a share of the median."""

Floats = npt.NDArray[Any]


class TokenMoments:
    """The sum of x x^T over tokens x, each divided by the norm of what the linear layers that read it make of it.

    LayerNorm will divide by that norm too. Without it [CLS], whose outliers are a hundred times as large as the other tokens,
    would decide alone.
    """

    def __init__(self, channels: int) -> None:
        """Begin with no tokens."""
        # A further channel is 1 in each token, so that channels can be shifted later.
        self._sums = np.zeros((channels + 1, channels + 1), dtype=np.float32)
        self._least: float | None = None

    def add(self, rows: Floats, weight: Floats) -> None:
        """Add tokens, float32 [tokens, channels], that layers of `weight` [outputs, channels] read.

        The first tokens decide what `LEAST_NORM` is a share of.
        """
        if not len(rows):
            return
        squares = np.square(rows @ weight.T).sum(axis=1, dtype=np.float64)
        if self._least is None:
            self._least = max(LEAST_NORM * float(np.median(squares)), 1e-12)  # not 0, for tokens that are
        norms = np.sqrt(squares + self._least)
        divided = (np.column_stack([rows, np.ones(len(rows), np.float32)]) / norms[:, None]).astype(np.float32)
        self._sums += divided.T @ divided

    def of(self, shift: Floats, factors: Floats) -> Floats:
        """Return the moments of (x - shift) * factors, float64 [channels, channels]."""
        sums = self._sums.astype(np.float64)
        with_mean = np.outer(sums[:-1, -1], shift)
        shifted = sums[:-1, :-1] - with_mean - with_mean.T + sums[-1, -1] * np.outer(shift, shift)
        return np.asarray(shifted * np.outer(factors, factors))
