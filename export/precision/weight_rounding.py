"""Rounds weights to INT8 for the native kernels."""

from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_WEIGHT = 127
"""The largest INT8 weight. -128 is not used, so that the range is symmetric."""
DAMPINGS = (0.01, 0.1, 1.0, 10.0)
"""Damping that is added to the diagonal of the moments, as a fraction of its mean. The first is GPTQ's own default. If the
moments are not positive definite, larger ones are tried."""
BLOCK = 128
"""Number of columns after which all later columns are updated. It affects only the speed."""
SWEEPS = 4
"""Maximum number of passes over all columns."""
STEPS = 400
"""Maximum number of steps in one column per pass."""
GRADIENT_DAMPING = 0.05
"""Damping that is added to the diagonal of the gradients' moments, as a fraction of its mean."""

Floats = npt.NDArray[Any]


def rounded(
    weight: Floats, moments: Floats | None = None, gradients: Floats | None = None
) -> tuple[npt.NDArray[np.int8], Floats]:
    """Round `weight` [outputs, inputs] to int8 of the same shape, with a scale for each output channel, float64 [outputs].

    With `moments` A [inputs, inputs] (`TokenMoments`) the rounding is GPTQ (Frantar et al. 2022, arXiv:2210.17323). The input
    channels are rounded one after the other, in descending order of their moments. The channels that are not yet rounded
    compensate for the error of each.

    With `gradients` B [outputs, outputs] as well, the second moments of the score's gradients with respect to the layer's
    outputs, single INT8 weights are then changed as long as that reduces tr(E A E^T B), where E is the error of the weights. This
    is the mean squared error of the score if inputs and gradients are independent (the approximation of K-FAC, Martens and Grosse
    2015, arXiv:1503.05671). So the errors of different outputs cancel each other in the score.

    Every weight is rounded to the nearest integer without moments, and if they are not finite or if no damping makes them
    positive definite.
    """
    largest = np.abs(weight).max(axis=1).astype(np.float64)
    scale = np.where(largest > 0, largest, MAX_WEIGHT) / MAX_WEIGHT
    scaled = weight / scale[:, None]
    if moments is None or not np.isfinite(scaled).all() or not np.isfinite(moments).all() or not moments.any():
        return np.rint(scaled).astype(np.int8), scale
    order = np.argsort(-np.diag(moments), kind="stable")
    factored = _factored(moments[np.ix_(order, order)])
    if factored is None:
        return np.rint(scaled).astype(np.int8), scale
    damped, upper = factored
    found = _gptq(scaled[:, order], upper)
    if gradients is not None and np.isfinite(gradients).all() and gradients.any():
        _descend(scaled[:, order], found, damped, _damped(gradients * np.outer(scale, scale), GRADIENT_DAMPING))
    integers = np.empty_like(scaled, dtype=np.int8)
    integers[:, order] = found
    return integers, scale


def _damped(moments: Floats, share: float) -> Floats:
    return np.asarray(moments + share * np.diag(moments).mean() * np.eye(len(moments)))


def _factored(moments: Floats) -> tuple[Floats, Floats] | None:
    """Return the damped moments and the upper Cholesky factor of their inverse; None if they are not positive definite."""
    for damping in DAMPINGS:
        damped = _damped(moments, damping)
        with suppress(np.linalg.LinAlgError):
            return damped, np.linalg.cholesky(np.linalg.inv(damped)).T
    return None


def _gptq(weight: Floats, upper: Floats) -> Floats:
    """Round the columns of `weight` [outputs, inputs] from left to right. Overwrites `weight`.

    `upper` is the upper Cholesky factor of the inverse of the inputs' moments.
    """
    inputs = weight.shape[1]
    integers = np.empty_like(weight)
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


def _descend(weight: Floats, integers: Floats, moments: Floats, gradients: Floats) -> None:
    """Change `integers` [outputs, inputs] column by column, each time the weight that reduces tr(E A E^T B) most.

    `moments` is A and `gradients` is B. If the weight of an output and an input changes by s, the trace falls by
    (2 t - s) s A_input B_output, where t = (B E A)_(output, input) / (A_input B_output), and A_input and B_output are diagonal
    elements. So t is the optimal change of the weight.
    """
    inputs = integers.shape[1]
    # Transposed, so that a column of the weights is contiguous in memory.
    columns = np.ascontiguousarray(integers.T, dtype=np.float32)
    errors = np.asarray(weight.T - columns, dtype=np.float32)
    of_outputs = np.diag(gradients).astype(np.float32)
    effects = (gradients / np.diag(gradients)).astype(np.float32)
    couplings = (moments / np.diag(moments)[:, None]).astype(np.float32)
    for _ in range(SWEEPS):
        changes = 0
        for start in range(0, inputs, BLOCK):
            stop = min(start + BLOCK, inputs)
            before = columns[start:stop].copy()
            best = couplings[start:stop] @ errors @ effects
            for number in range(start, stop):
                own = best[number - start]
                moved = own.copy()
                changes += _descend_column(columns[number], own, of_outputs, effects)
                moved -= own
                following = couplings[number + 1 : stop, number, None]
                best[number + 1 - start :] -= following * moved
            errors[start:stop] -= columns[start:stop] - before
        if changes < integers.size / 1000:
            break
    integers[:] = columns.T


def _descend_column(integers: Floats, best: Floats, curvatures: Floats, effects: Floats) -> int:
    """Change one column, `integers` [outputs], and update `best` [outputs], the optimal changes. Return the number of steps.

    `curvatures` [outputs] weights the gain of each output's steps. A step of an output changes `best` by the step times the
    output's row of `effects` [outputs, outputs].
    """
    low, high = -MAX_WEIGHT - integers, MAX_WEIGHT - integers
    steps, gains = np.empty_like(best), np.empty_like(best)
    for count in range(STEPS):
        np.rint(best, out=steps)
        np.minimum(np.maximum(steps, low, out=steps), high, out=steps)
        np.add(best, best, out=gains)
        gains -= steps
        gains *= steps
        gains *= curvatures
        output = int(gains.argmax())
        if not gains[output] > 1e-6 * curvatures[output]:
            return count
        step = steps[output]
        integers[output] += step
        low[output] -= step
        high[output] -= step
        best -= step * effects[output]
    return STEPS
