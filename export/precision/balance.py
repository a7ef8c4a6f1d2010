"""`balanced`: the shifts and factors of channels with which INT8 moves the score least."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ...engine.bundle.native_weights import padded
from .rotation import gains, rotated
from .score_gradients import GradientSample

STEPS = 150
RATE = 0.03
"""Steps of Adam, and the first one's size; it falls to 0."""

Floats = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Balance:
    """The kernels quantize (x - shift) * factors in place of x. Both are float64 [channels]."""

    factors: Floats
    shift: Floats


def balanced(
    start: Balance,
    sample: GradientSample,
    weights: Floats,
    *,
    cls_is_exact: bool = False,
    shifts: bool = True,
    rotates: bool = False,
) -> Balance:
    """Improve `start` for a tensor that `weights` [outputs, channels] read, by the score's gradients.

    Rounding errors are taken as independent and uniform over a step. A step of the activations is a 254th of the token's range,
    one of the weights a 127th of the output channel's largest weight. So the score's variance is, but for the factor of 1/12,

        sum over tokens of  range^2 / 254^2 * sum over channels of (gradient / factor)^2
        + sum over tokens and outputs of  (output gradient * largest weight / 127)^2 * |(x - shift) * factors|^2

    which Adam (Kingma and Ba 2014, arXiv:1412.6980) minimizes. `cls_is_exact` leaves the activations of [CLS] out: the kernels
    quantize them twice where keys are computed. Without `shifts` the shift stays as it is. With `rotates` the kernels rotate what
    they quantize: x and the weights are then rotated too, and a gradient's square is shared out by its group.
    """
    rows, weight = sample.rows, torch.tensor(weights, dtype=torch.float32)
    scale = rows.std(0).clamp(min=1e-6)
    first_shift = torch.tensor(start.shift, dtype=torch.float32)
    squares, outputs = sample.gradients.square(), sample.output_gradients.square()
    counted = sample.weight * (1 - sample.is_cls) if cls_is_exact else sample.weight
    channels = weights.shape[1]
    gain = gains(padded(channels)) if rotates else torch.ones(channels)

    def as_quantized(values: torch.Tensor) -> torch.Tensor:
        return rotated(torch.nn.functional.pad(values, (0, len(gain) - channels))) if rotates else values

    with torch.enable_grad():
        logarithms = torch.tensor(np.log(start.factors), dtype=torch.float32).requires_grad_()
        moved = torch.zeros_like(first_shift).requires_grad_()
        optimizer = torch.optim.Adam([logarithms, moved] if shifts else [logarithms], lr=RATE)
        for step in range(STEPS):
            factors = logarithms.exp()
            read = as_quantized((rows - first_shift - moved * scale) * factors)
            width = read.max(1).values.clamp(min=0) - read.min(1).values.clamp(max=0)
            by_activations = (counted * (width / 254).square() * (squares @ (factors.pow(-2) / gain[:channels]))).sum()
            largest = (as_quantized(weight / factors) / gain).abs().max(1).values / 127
            by_weights = (sample.weight * (outputs @ largest.square()) * read.square().sum(1)).sum()
            optimizer.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
            optimizer.zero_grad()
            error: Any = (by_activations + by_weights).log()
            error.backward()
            optimizer.step()
    improved = logarithms.detach().exp().double().numpy()
    return Balance(improved / np.median(improved), (first_shift + moved.detach() * scale).double().numpy())
