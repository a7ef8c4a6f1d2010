"""`choose_quantization`: finds the quantization of a tensor that least changes the outputs of the layers that read it."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from operator import itemgetter
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
        self._weight = np.concatenate(weights)
        ends = np.cumsum([len(weight) for weight in weights]).tolist()
        self._layers = [slice(end - len(weight), end) for end, weight in zip(ends, weights, strict=True)]
        self._exact = self._rows @ self._weight.T
        norms = self._squared_norms(self._exact)
        self._norms = norms + 0.1 * np.median(norms, axis=1, keepdims=True) + np.finfo(np.float32).tiny

    def __call__(self, form: Quantization, scales: Sequence[float]) -> list[float]:
        """Return the mean over tokens and layers for `form` with each of the `scales` in place of its own; 0 if it is exact.

        The scale does not change the weights, so they are quantized once for all scales.
        """
        integers, scale = form.weight(self._weight)
        weight = integers.astype(np.float32) * scale[:, None]
        smoothed = form.smoothed(self._rows)
        # What the product lacks besides the quantized activations: the shift, and the channels in floating point.
        target = self._exact
        if form.shift is not None:
            target = target - weight @ form.shift
        if form.outlier_channels:
            channels = list(form.outlier_channels)
            target = target - self._rows[:, channels] @ self._weight[:, channels].T
        errors = []
        for each in scales:
            difference = replace(form, scale=each).rounded(smoothed) @ weight.T
            difference -= target
            errors.append(float((self._squared_norms(difference) / self._norms).mean()))
        return errors

    def _squared_norms(self, outputs: Floats) -> Floats:
        """Return the squared norm of each layer's part of `outputs` [tokens, outputs of all layers], as [layers, tokens]."""
        parts = [outputs[:, layer] for layer in self._layers]
        return np.stack([np.einsum("ij,ij->i", part, part) for part in parts])


def _least_token_error(stats: TensorStats, weights: Sequence[Floats], recipe: Recipe) -> Quantization:
    best: Quantization | None = None
    least = np.inf
    error = TokenErrorMeasure(stats, weights)
    alphas = ALPHAS if recipe.smoothing is None else (recipe.smoothing,)
    # From the cheapest form to the most expensive: smoothing and a shift add one operator each, kept channels add three.
    for outliers, shifted, smoothed in product(OUTLIER_COUNTS, (False, True), (False, True)):
        tried: list[tuple[float, Quantization]] = []
        for alpha in (alpha for alpha in alphas if bool(alpha) == smoothed):
            form = _form(stats, weights, alpha, outliers, shifted)
            scales = [float(np.float32(form.scale * shrink)) for shrink in RANGE_FRACTIONS]
            tried += zip(error(form, scales), (replace(form, scale=scale) for scale in scales), strict=True)
        if not tried:
            continue
        smallest, candidate = min(tried, key=itemgetter(0))
        if best is None or smallest < REQUIRED_GAIN * least:
            best, least = candidate, smallest
    assert best is not None
    return best


def _form(stats: TensorStats, weights: Sequence[Floats], alpha: float, outliers: int, shifted: bool) -> Quantization:
    """Return the quantization with the full range and SmoothQuant's `alpha`.

    As many channels as `outliers`, those with the largest ranges, stay in floating point.
    """
    reach = (stats.high - stats.low) / np.float32(2) if shifted else stats.magnitude
    channels = tuple(sorted(np.argsort(-reach, kind="stable")[:outliers].tolist()))
    quantized = np.ones(len(reach), dtype=bool)
    quantized[list(channels)] = False
    smoothing = _smoothing(reach, weights, alpha)
    smooth = reach if smoothing is None else reach / smoothing
    shift = None
    if shifted:
        middle = (stats.high + stats.low) / np.float32(2)
        shift = middle if smoothing is None else middle / smoothing
    return _scaled(smooth[quantized], smoothing_factors=smoothing, shift=shift, outlier_channels=channels)


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
