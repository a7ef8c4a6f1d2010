"""`Quantization`: how one tensor of a model is held in 8 bits; and `chosen`, the search for it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from .ranges import LEVELS, clip_at
from .recipe import Recipe

Floats = npt.NDArray[np.float32]
Int8s = npt.NDArray[np.int8]

ALPHAS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9)
SHRINK = (1.0, 0.8, 0.6)
KEPT = (0, 4)
WORTH = 0.9
"""Each further operator beside the integer product must bring the error down to this much of what it is without."""
ROWS = 1500
"""Tokens on which candidates are compared."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Activation:
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Quantization:
    """A tensor x [..., channels] in 8 bits: round((x / smoothing - shift) / scale), clipped to -128 ... 127.

    `smoothing` float32 [channels], or None for ones, is multiplied into the weights that read the tensor (Xiao et al.
    2023, SmoothQuant, arXiv:2211.10438); `shift` float32 [channels], or None for zeros, times those weights goes into the
    bias (Wei et al. 2023, Outlier Suppression+, arXiv:2304.09145), which leaves the zero point at 0. The `kept` channels
    are read in floating point beside the 8-bit product.
    """

    scale: float
    smoothing: Floats | None = None
    shift: Floats | None = None
    kept: tuple[int, ...] = ()

    def activation(self, values: Floats) -> Floats:
        """Return [tokens, channels] as the 8-bit product reads them, smoothed and shifted."""
        scale = np.float32(self.scale)
        rounded: Floats = np.clip(np.rint(self.smoothed(values) / scale), -LEVELS - 1, LEVELS) * scale
        return rounded

    def smoothed(self, values: Floats) -> Floats:
        """Return [tokens, channels] divided by `smoothing`, less `shift`, with 0 in the kept channels."""
        smooth: Floats = values.copy() if self.smoothing is None else values * (np.float32(1) / self.smoothing)
        if self.shift is not None:
            smooth -= self.shift
        if self.kept:
            smooth[:, list(self.kept)] = 0
        return smooth

    def weight(self, weight: Floats, least_scale: float = 0.0) -> tuple[Int8s, Floats]:
        """Return a weight float32 [out, in] in 8 bits, int8 [out, in], and its scales, float32 [out].

        Rows of kept channels are 0, so whatever the activation holds there counts for nothing. No scale is below
        `least_scale`.
        """
        smooth = weight if self.smoothing is None else weight * self.smoothing
        if self.kept:
            smooth = smooth.copy()
            smooth[:, list(self.kept)] = 0
        greatest = np.abs(smooth).max(axis=1)
        # A row of zeros has no range of its own; any scale gives zeros.
        scales = np.maximum(np.where(greatest > 0, greatest, 1) / LEVELS, least_scale).astype(np.float32)
        return np.clip(np.rint(smooth / scales[:, None]), -LEVELS, LEVELS).astype(np.int8), scales

    def bias(self, weight: Floats, least_scale: float = 0.0) -> Floats:
        """Return what the shift adds to the bias of a linear layer of this `weight`, float32 [out]."""
        integers, scales = self.weight(weight, least_scale)
        if self.shift is None:
            return np.zeros(len(scales), dtype=np.float32)
        sums: Floats = ((integers.astype(np.float64) @ self.shift) * scales).astype(np.float32)
        return sums

    def spread(self, places: npt.NDArray[np.int64], channels: int) -> "Quantization":
        """Return it for a tensor of more `channels`, where channel i lies at `places[i]` and zeros everywhere else."""

        def put(values: Floats | None, rest: float) -> Floats | None:
            if values is None:
                return None
            wide = np.full(channels, rest, dtype=np.float32)
            wide[places] = values
            return wide

        return Quantization(
            scale=self.scale,
            smoothing=put(self.smoothing, 1),
            shift=put(self.shift, 0),
            kept=tuple(places[list(self.kept)].tolist()),
        )

    def product(self, values: Floats, weight: Floats) -> Floats:
        """Return x W^T as the quantised graph computes it, float32 [tokens, out]."""
        integers, scales = self.weight(weight)
        result: Floats = self.activation(values) @ (integers.astype(np.float32) * scales[:, None]).T
        if self.shift is not None:
            result += self.bias(weight)
        if self.kept:
            result += values[:, list(self.kept)] @ weight[:, list(self.kept)].T
        return result

    def to_json(self) -> dict[str, Any]:
        """Return what a person wants to know of it."""
        return {
            "scale": self.scale,
            "smoothed": self.smoothing is not None,
            "shifted": self.shift is not None,
            "channels_kept": list(self.kept),
        }


def chosen(seen: Activation, weights: Sequence[Floats], recipe: Recipe) -> Quantization:
    """Return how to quantise a tensor that is read by linear layers of these `weights`, each float32 [out, in].

    Without weights, for a tensor that feeds no linear layer, `token` means `mse`.
    """
    if recipe.method == "token" and weights:
        return _least_token_error(seen, weights, recipe)
    smoothing = _smoothing(seen.magnitude, weights, recipe.smoothing or 0.0)
    if recipe.method == "minmax":
        return _scaled(seen.magnitude if smoothing is None else seen.magnitude / smoothing, smoothing=smoothing)
    smooth = seen.rows if smoothing is None else seen.rows / smoothing
    clip = clip_at(smooth, "mse" if recipe.method == "token" else recipe.method)
    return _scaled(np.array([clip], dtype=np.float32), smoothing=smoothing)


class TokenError:
    """What a quantisation of one tensor does to the layers that read it, seen a token at a time.

    Each token's squared error is divided by its own squared norm, because LayerNorm follows: in a plain mean, the one
    token of each text that carries massive activations (Sun et al. 2024, arXiv:2402.17762) outweighs all others.
    """

    def __init__(self, seen: Activation, weights: Sequence[Floats]) -> None:
        self._rows = seen.rows[:ROWS]
        self._layers = []
        for weight in weights:
            exact = self._rows @ weight.T
            norm = (exact**2).sum(axis=1)
            self._layers.append((weight, exact, norm + 0.1 * np.median(norm) + np.finfo(np.float32).tiny))

    def __call__(self, quantization: Quantization) -> float:
        """Return the mean over tokens and layers; 0 when nothing is lost."""
        errors = [
            (((quantization.product(self._rows, weight) - exact) ** 2).sum(axis=1) / norm).mean()
            for weight, exact, norm in self._layers
        ]
        return float(np.mean(errors))


def _least_token_error(seen: Activation, weights: Sequence[Floats], recipe: Recipe) -> Quantization:
    best: Quantization | None = None
    least = np.inf
    error = TokenError(seen, weights)
    alphas = ALPHAS if recipe.smoothing is None else (recipe.smoothing,)
    # From the cheapest form to the dearest: a smoothing or a shift is one more operator, kept channels are three.
    for kept, shifted, smoothed in product(KEPT, (False, True), (False, True)):
        errors = {
            candidate: error(candidate)
            for candidate in _candidates(seen, weights, [a for a in alphas if bool(a) == smoothed], kept, shifted)
        }
        if not errors:
            continue
        found = min(errors, key=errors.__getitem__)
        if best is None or errors[found] < WORTH * least:
            best, least = found, errors[found]
    assert best is not None
    return best


def _candidates(
    seen: Activation, weights: Sequence[Floats], alphas: Sequence[float], kept: int, shifted: bool
) -> Iterator[Quantization]:
    reach = (seen.high - seen.low) / np.float32(2) if shifted else seen.magnitude
    channels = tuple(sorted(np.argsort(-reach, kind="stable")[:kept].tolist()))
    quantized = np.ones(len(reach), dtype=bool)
    quantized[list(channels)] = False
    for alpha in alphas:
        smoothing = _smoothing(reach, weights, alpha)
        smooth = reach if smoothing is None else reach / smoothing
        shift = None
        if shifted:
            middle = (seen.high + seen.low) / np.float32(2)
            shift = middle if smoothing is None else middle / smoothing
        for shrink in SHRINK:
            yield _scaled(smooth[quantized] * np.float32(shrink), smoothing=smoothing, shift=shift, kept=channels)


def _smoothing(reach: Floats, weights: Sequence[Floats], alpha: float) -> Floats | None:
    """SmoothQuant's equation 4 for channels of this reach, with the median channel left as it is."""
    if not alpha or not weights:
        return None
    weight = np.max([np.abs(weight).max(axis=0) for weight in weights], axis=0)
    factors = np.maximum(reach, 1e-5) ** alpha / np.maximum(weight, 1e-5) ** (1 - alpha)
    smoothing: Floats = (factors / np.median(factors)).astype(np.float32)
    return smoothing


def _scaled(reach: Floats, **fields: Any) -> Quantization:
    return Quantization(scale=float(np.float32(reach.max() / LEVELS)), **fields)
