"""`quantized_product`: the arithmetic of a quantized linear layer, step by step."""

import numpy as np
import numpy.typing as npt

from crossrt.calibration.quantization import Quantization

Floats = npt.NDArray[np.float32]


def quantized_product(quantization: Quantization, values: Floats, weight: Floats) -> Floats:
    """Return x W^T, float32 [tokens, out], of x `values` [tokens, in] and W `weight` [out, in]."""
    integers, scales = quantization.weight(weight)
    rounded = quantization.rounded(quantization.smoothed(values))
    result: Floats = rounded @ (integers.astype(np.float32) * scales[:, None]).T
    if quantization.shift is not None:
        result += quantization.bias(weight)
    channels = list(quantization.outlier_channels)
    result += values[:, channels] @ weight[:, channels].T
    return result
