"""`Quantization`: how one tensor of a model is quantized to 8 bits."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .ranges import LEVELS
from .tensor_stats import Floats

Int8s = npt.NDArray[np.int8]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Quantization:
    """A tensor x [..., channels] in 8 bits: round((x / smoothing_factors - shift) / scale), clipped to -128 ... 127.

    `smoothing_factors` is float32 [channels], or None for ones. The tensor is divided by it, and the weights that read the tensor
    are multiplied by it (Xiao et al. 2023, SmoothQuant, arXiv:2211.10438). The native kernels use the reciprocals, with which
    they multiply (`Smoothing` in export/precision/smoothing.py and engine/kernels/native/precision.h).

    `shift` is float32 [channels], or None for zeros. It is subtracted from the smoothed tensor. To compensate, the product of the
    smoothed 8-bit weights with `shift` is added to the layer's bias (Wei et al. 2023, Outlier Suppression+, arXiv:2304.09145).
    The zero point is always 0.

    The `outlier_channels` are multiplied in floating point; in the 8-bit product they are 0.
    """

    scale: float
    smoothing_factors: Floats | None = None
    shift: Floats | None = None
    outlier_channels: tuple[int, ...] = ()

    def smoothed(self, values: Floats) -> Floats:
        """Return [tokens, channels] divided by `smoothing_factors`, minus `shift`, with 0 in the outlier channels."""
        smooth: Floats = (
            values.copy() if self.smoothing_factors is None else values * (np.float32(1) / self.smoothing_factors)
        )
        if self.shift is not None:
            smooth -= self.shift
        if self.outlier_channels:
            smooth[:, list(self.outlier_channels)] = 0
        return smooth

    def rounded(self, smoothed: Floats) -> Floats:
        """Return the result of `smoothed` rounded to 8 bits and multiplied by the scale, as the 8-bit product reads it."""
        scale = np.float32(self.scale)
        rounded: Floats = smoothed / scale
        np.rint(rounded, out=rounded)
        np.clip(rounded, -LEVELS - 1, LEVELS, out=rounded)
        rounded *= scale
        return rounded

    def weight(self, weight: Floats, least_scale: float = 0.0) -> tuple[Int8s, Floats]:
        """Quantize a weight, float32 [out, in]. Return it as int8 [out, in], and its scales, float32 [out].

        Weights of outlier channels are 0, so the activations of these channels add nothing. No scale is below `least_scale`.
        """
        smooth = weight if self.smoothing_factors is None else weight * self.smoothing_factors
        if self.outlier_channels:
            smooth = smooth.copy()
            smooth[:, list(self.outlier_channels)] = 0
        greatest = np.abs(smooth).max(axis=1)
        # Any scale except 0 works for a row of zeros.
        scales = np.maximum(np.where(greatest > 0, greatest, 1) / LEVELS, least_scale).astype(np.float32)
        return np.clip(np.rint(smooth / scales[:, None]), -LEVELS, LEVELS).astype(np.int8), scales

    def bias(self, weight: Floats, least_scale: float = 0.0) -> Floats:
        """Return what the shift adds to the bias of a linear layer with this `weight`, float32 [out]."""
        integers, scales = self.weight(weight, least_scale)
        if self.shift is None:
            return np.zeros(len(scales), dtype=np.float32)
        sums: Floats = ((integers.astype(np.float64) @ self.shift) * scales).astype(np.float32)
        return sums

    def spread(self, places: npt.NDArray[np.int64], channels: int) -> "Quantization":
        """Return the quantization of a tensor padded to `channels`: channel i becomes channel `places[i]`, the rest is zero."""

        def widened(values: Floats | None, rest: float) -> Floats | None:
            if values is None:
                return None
            wide = np.full(channels, rest, dtype=np.float32)
            wide[places] = values
            return wide

        return Quantization(
            scale=self.scale,
            smoothing_factors=widened(self.smoothing_factors, 1),
            shift=widened(self.shift, 0),
            outlier_channels=tuple(places[list(self.outlier_channels)].tolist()),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the entry of calibration.int8.json."""
        return {
            "scale": self.scale,
            "smoothed": self.smoothing_factors is not None,
            "shifted": self.shift is not None,
            "channels_kept": list(self.outlier_channels),
        }
