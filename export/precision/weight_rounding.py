"""How weights are rounded to INT8 for the native kernels."""

from typing import Any

import numpy as np
import numpy.typing as npt

MAX_WEIGHT = 127
"""The largest INT8 weight. -128 is not used, so that the range is symmetric."""
DAMPING = 0.01
"""What is added to the diagonal of the moments, as a share of its mean. GPTQ's own default."""
BLOCK = 128
"""Columns after which the other columns are corrected. It changes the speed only."""
LEAST_NORM = 0.1
"""The smallest squared norm that a token is divided by, as a share of the median."""

Floats = npt.NDArray[Any]


def token_moments(rows: Floats, weight: Floats) -> Floats:
    """Return second moments, float64 [inputs, inputs], of `rows` [tokens, inputs], which `weight` [outputs, inputs] reads.

    Each token is divided by the norm of its output, as LayerNorm will do: otherwise [CLS], whose outliers are a hundred times as
    large as the other tokens, would decide alone.
    """
    rows = rows.astype(np.float64)
    squares = np.square(rows @ weight.T).sum(axis=1)
    rows = rows / np.sqrt(squares + LEAST_NORM * np.median(squares) + np.finfo(np.float32).tiny)[:, None]
    return np.asarray(rows.T @ rows)


def rounded(weight: Floats, moments: Floats | None = None) -> tuple[npt.NDArray[np.int8], Floats]:
    """Round `weight` [outputs, inputs] to int8 of the same shape, with a scale for each output channel, float64 [outputs].

    With `moments` (`token_moments`) the rounding is GPTQ's (Frantar et al. 2022, arXiv:2210.17323): input channels are rounded
    one after the other, the strongest first, and those that are still to be rounded make up for the error of each. Without,
    every weight goes to the nearest integer.
    """
    largest = np.abs(weight).max(axis=1).astype(np.float64)
    scale = np.where(largest > 0, largest, MAX_WEIGHT) / MAX_WEIGHT
    scaled = weight / scale[:, None]
    if moments is None or not np.isfinite(scaled).all() or not moments.any():
        return np.rint(scaled).astype(np.int8), scale
    order = np.argsort(-np.diag(moments), kind="stable")
    integers = np.empty_like(scaled, dtype=np.int8)
    integers[:, order] = _gptq(scaled[:, order], moments[np.ix_(order, order)])
    return integers, scale


def _gptq(weight: Floats, moments: Floats) -> npt.NDArray[np.int8]:
    """Round the columns of `weight` [outputs, inputs] from left to right; `weight` is overwritten."""
    inputs = weight.shape[1]
    damped = moments + DAMPING * np.diag(moments).mean() * np.eye(inputs)
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    integers = np.empty(weight.shape, dtype=np.int8)
    for start in range(0, inputs, BLOCK):
        stop = min(start + BLOCK, inputs)
        errors = np.empty((len(weight), stop - start))
        for column in range(start, stop):
            nearest = np.rint(weight[:, column]).clip(-MAX_WEIGHT, MAX_WEIGHT)
            integers[:, column] = nearest
            error = errors[:, column - start] = (weight[:, column] - nearest) / upper[column, column]
            weight[:, column + 1 : stop] -= np.outer(error, upper[column, column + 1 : stop])
        weight[:, stop:] -= errors @ upper[start:stop, stop:]
    return integers
