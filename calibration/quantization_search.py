"""`choose_quantization`: finds the quantization of a tensor that least changes the outputs of the layers that read it."""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np

from .quantization import Quantization
from .ranges import LEVELS, clip_at
from .recipe import Recipe
from .tensor_stats import Floats, TensorStats

ALPHAS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Values of SmoothQuant's alpha that are tried."""
RANGE_FRACTIONS = (1.0, 0.8, 0.6)
"""Fractions of the full range that are tried. Values outside are clipped."""
OUTLIER_COUNTS = (0, 4)
"""Numbers of channels kept in floating point that are tried."""
REQUIRED_GAIN = 0.9
"""A form with more operators must reduce the error to less than this fraction of that of the form chosen so far."""
ROWS = 1500
"""Number of tokens on which candidates are compared."""


def choose_quantization(stats: TensorStats, weights: Sequence[Floats], recipe: Recipe) -> Quantization:
    """Return the quantization of a tensor that is read by linear layers with these `weights`, each float32 [out, in].

    Without weights, for a tensor that no linear layer reads, `token` is the same as `mse`.
    """
    if recipe.method == "token" and weights:
        return _least_token_error(stats, weights, recipe)
    smoothing = _smoothing(stats.magnitude, weights, recipe.smoothing or 0.0)
    if recipe.method == "minmax":
        return _scaled(
            stats.magnitude if smoothing is None else stats.magnitude / smoothing, smoothing_factors=smoothing
        )
    smooth = stats.rows if smoothing is None else stats.rows / smoothing
    clip = clip_at(smooth, "mse" if recipe.method == "token" else recipe.method)
    return _scaled(np.array([clip], dtype=np.float32), smoothing_factors=smoothing)


class TokenErrorMeasure:
    """The error that a quantization of one tensor causes in the layers that read it, as a mean over tokens.

    Each token's squared error is divided by the squared norm of its exact output, because LayerNorm follows. In a plain mean, the
    one token of each text with massive activations (Sun et al. 2024, arXiv:2402.17762) would outweigh all others.
    """

    def __init__(self, stats: TensorStats, weights: Sequence[Floats]) -> None:
        self._rows = stats.rows[:ROWS]
        self._layers = []
        for weight in weights:
            exact = self._rows @ weight.T
            norm = (exact**2).sum(axis=1)
            self._layers.append((weight, exact, norm + 0.1 * np.median(norm) + np.finfo(np.float32).tiny))

    def __call__(self, quantization: Quantization) -> float:
        """Return the mean over tokens and layers; 0 if the quantization is exact."""
        errors = [
            (((quantization.product(self._rows, weight) - exact) ** 2).sum(axis=1) / norm).mean()
            for weight, exact, norm in self._layers
        ]
        return float(np.mean(errors))


def _least_token_error(stats: TensorStats, weights: Sequence[Floats], recipe: Recipe) -> Quantization:
    best: Quantization | None = None
    least = np.inf
    error = TokenErrorMeasure(stats, weights)
    alphas = ALPHAS if recipe.smoothing is None else (recipe.smoothing,)
    # From the cheapest form to the most expensive: smoothing and a shift add one operator each, kept channels add three.
    for outliers, shifted, smoothed in product(OUTLIER_COUNTS, (False, True), (False, True)):
        errors = {
            candidate: error(candidate)
            for candidate in _candidates(stats, weights, [a for a in alphas if bool(a) == smoothed], outliers, shifted)
        }
        if not errors:
            continue
        candidate = min(errors, key=errors.__getitem__)
        if best is None or errors[candidate] < REQUIRED_GAIN * least:
            best, least = candidate, errors[candidate]
    assert best is not None
    return best


def _candidates(
    stats: TensorStats, weights: Sequence[Floats], alphas: Sequence[float], outliers: int, shifted: bool
) -> Iterator[Quantization]:
    reach = (stats.high - stats.low) / np.float32(2) if shifted else stats.magnitude
    channels = tuple(sorted(np.argsort(-reach, kind="stable")[:outliers].tolist()))
    quantized = np.ones(len(reach), dtype=bool)
    quantized[list(channels)] = False
    for alpha in alphas:
        smoothing = _smoothing(reach, weights, alpha)
        smooth = reach if smoothing is None else reach / smoothing
        shift = None
        if shifted:
            middle = (stats.high + stats.low) / np.float32(2)
            shift = middle if smoothing is None else middle / smoothing
        for shrink in RANGE_FRACTIONS:
            yield _scaled(
                smooth[quantized] * np.float32(shrink),
                smoothing_factors=smoothing,
                shift=shift,
                outlier_channels=channels,
            )


def _smoothing(reach: Floats, weights: Sequence[Floats], alpha: float) -> Floats | None:
    """Return SmoothQuant's factors (equation 4) for channels whose largest magnitudes are `reach`, divided by their median."""
    if not alpha or not weights:
        return None
    weight = np.max([np.abs(weight).max(axis=0) for weight in weights], axis=0)
    factors = np.maximum(reach, 1e-5) ** alpha / np.maximum(weight, 1e-5) ** (1 - alpha)
    smoothing: Floats = (factors / np.median(factors)).astype(np.float32)
    return smoothing


def _scaled(reach: Floats, **fields: Any) -> Quantization:
    return Quantization(scale=float(np.float32(reach.max() / LEVELS)), **fields)
