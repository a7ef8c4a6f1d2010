"""Curves fitted to speeds. Each function returns the formula as text, and its values at the points."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .result.rounding import rounded

Floats = npt.NDArray[np.float64]


def saturating(tokens: Floats, speeds: Floats) -> tuple[str, Floats]:
    """Fit a cost per batch and a cost per token: pairs/s = most T / (T + half) for batches of T tokens."""
    (token, batch), fitted = _costs([np.ones_like(tokens), 1 / tokens], speeds)
    most, half = 1 / token if token else np.inf, batch / token if token else np.inf
    return f"pairs/s = {rounded(most, 0)} T / (T + {rounded(half, 0)}) for batches of T tokens", fitted


def polynomial(lengths: Floats, speeds: Floats) -> tuple[str, Floats]:
    """Fit a + b n + c n^2 seconds for a pair of n tokens: the costs of a pair, of a token, and of attention."""
    (a, b, c), fitted = _costs([np.ones_like(lengths), lengths, lengths**2], speeds)
    return f"seconds a pair = {a:.2g} + {b:.2g} n + {c:.2g} n^2 for n tokens", fitted


def amdahl(threads: Floats, speeds: Floats) -> tuple[str, Floats]:
    """Fit Amdahl's law (1967), with a share s of serial work: pairs/s = one / (s + (1 - s) / N) on N threads."""
    if len(threads) == 1:
        return f"pairs/s = {rounded(float(speeds[0]), 0)} on one thread; one point has no curve", speeds
    (alone, shared), fitted = _costs([np.ones_like(threads), 1 / threads], speeds)
    one, share = 1 / (alone + shared), alone / (alone + shared)
    few = "; two points fit any such curve" if len(threads) == 2 else ""
    return f"pairs/s = {rounded(one, 0)} / ({share:.2g} + {1 - share:.2g} / N) on N threads{few}", fitted


def _costs(columns: Sequence[Floats], speeds: Floats) -> tuple[list[float], Floats]:
    """Fit the seconds per pair as a non-negative combination of these columns. Return the coefficients and fitted speeds.

    Errors are relative to the speed, so that slow points do not outweigh fast ones.
    """
    from scipy.optimize import nnls

    matrix = np.stack(columns, axis=1)
    scale = matrix.max(axis=0)  # columns of similar size keep the solver accurate
    costs, _ = nnls(matrix / scale * speeds[:, None], np.ones_like(speeds))
    fitted: Floats = 1 / (matrix @ (costs / scale))
    return (costs / scale).tolist(), fitted
