"""`optimized_smoothing`: the shift and the SmoothQuant scaling of channels with which INT8 changes the score least."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ...engine.bundle.native_weights import padded
from .rotation import gains, rotated, rotation_of
from .score_gradients import GradientSample

STEPS = 150
RATE = 0.03
"""Adam's number of steps, and its initial learning rate, which falls linearly to 0."""

Floats = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Smoothing:
    """How the kernels smooth a tensor x: they quantize (x - shift) * multipliers. Both are float64 [channels].

    The weights that read the tensor are divided by `multipliers`. These are the reciprocals of SmoothQuant's smoothing factors
    and of `Quantization.smoothing_factors`, by which the tensor is divided. The weights file calls them `balance`.
    """

    multipliers: Floats
    shift: Floats


def optimized_smoothing(
    start: Smoothing,
    sample: GradientSample,
    weights: Floats,
    *,
    cls_is_exact: bool = False,
    shifts: bool = True,
    rotates: bool = False,
) -> Smoothing:
    """Improve `start`, for a tensor that `weights` [outputs, channels] read, with the gradients of the score.

    Rounding errors are assumed to be independent and uniform within a quantization step. The step of a token's activations is a
    254th of its range. The step of an output channel's weights is a 127th of the largest weight. So the variance of the score is,
    except for the factor 1/12,

        sum over tokens of  range^2 / 254^2 * sum over channels of (gradient / multiplier)^2
        + sum over tokens and outputs of  (output gradient * largest weight / 127)^2 * |(x - shift) * multipliers|^2

    Adam (Kingma and Ba 2014, arXiv:1412.6980) minimizes its logarithm. `cls_is_exact` ignores the errors of [CLS]'s activations,
    because the kernels quantize [CLS] twice where queries, keys and values are computed. Without `shifts`, the shift does not
    change. With `rotates`, the kernels rotate what they quantize: x and the weights are then rotated too, and the square of a
    gradient is spread over its group of channels.
    """
    variance = ScoreVariance(sample, weights, start.shift, cls_is_exact=cls_is_exact, rotates=rotates)
    scale = sample.rows.std(0).clamp(min=1e-6)
    logarithms = torch.tensor(np.log(start.multipliers), dtype=torch.float32).requires_grad_()
    moved = torch.zeros_like(scale).requires_grad_()
    optimizer = torch.optim.Adam([logarithms, moved] if shifts else [logarithms], lr=RATE)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        optimizer.zero_grad()
        with torch.enable_grad():
            error: Any = variance(logarithms.exp(), moved * scale).log()
            error.backward()
        optimizer.step()
    improved = logarithms.detach().exp().double().numpy()
    return Smoothing(improved / np.median(improved), start.shift + (moved.detach() * scale).double().numpy())


class ScoreVariance:
    """The variance that `optimized_smoothing` minimizes, a function of the multipliers and of a change of the shift.

    Both are float32 [channels].

    The maximum or minimum of a row depends on one channel, or on one group of rotated channels. That channel or group is found
    without autograd. Autograd then processes only that group, which takes half the time.
    """

    def __init__(
        self, sample: GradientSample, weights: Floats, shift: Floats, *, cls_is_exact: bool, rotates: bool
    ) -> None:
        """Take the arguments of `optimized_smoothing`, and the initial `shift` [channels] to which changes are added."""
        self._width = padded(weights.shape[1])
        self._rotates = rotates
        self._gain = torch.ones(self._width)
        self._members, self._signs = torch.arange(self._width)[:, None], torch.ones(self._width, 1)
        if rotates:
            self._gain = gains(self._width)
            self._members, self._signs = rotation_of(self._width)
        self._rows = self._padded(sample.rows - torch.tensor(shift, dtype=torch.float32))
        self._row_squares = self._rows.square()
        self._weights = self._padded(torch.tensor(weights, dtype=torch.float32))
        self._squares, self._output_squares = self._padded(sample.gradients.square()), sample.output_gradients.square()
        self._weight = sample.weight
        self._counted = sample.weight * (1 - sample.is_cls) if cls_is_exact else sample.weight

    def __call__(self, multipliers: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """Return the variance, differentiable by autograd."""
        multipliers, shift = self._padded(multipliers, 1.0), self._padded(shift)
        with torch.no_grad():
            read = self._rotated((self._rows - shift) * multipliers).numpy()
            weights = self._rotated(self._weights / multipliers).abs_().div_(self._gain).numpy()
        # NumPy is faster at this than PyTorch.
        highest, lowest = torch.from_numpy(read.argmax(1)), torch.from_numpy(read.argmin(1))
        largest = torch.from_numpy(weights.argmax(1))

        def read_at(channels: torch.Tensor) -> torch.Tensor:
            members = self._members[channels]
            rows = (self._rows.gather(1, members) - shift[members]) * multipliers[members]
            return (rows * self._signs[channels]).sum(1)

        ranges = (read_at(highest).clamp(min=0) - read_at(lowest).clamp(max=0)) / 254
        members = self._members[largest]
        divided = self._weights.gather(1, members) / multipliers[members] * self._signs[largest]
        steps = divided.sum(1) / self._gain[largest] / 127
        scales = self._gain * multipliers.square()
        norms = self._row_squares @ scales - 2 * (self._rows @ (scales * shift)) + (scales * shift.square()).sum()
        by_activations = self._counted * ranges.square() * (self._squares @ (multipliers.pow(-2) / self._gain))
        by_weights = self._weight * (self._output_squares @ steps.square()) * norms
        return (by_activations + by_weights).sum()

    def _padded(self, values: torch.Tensor, value: float = 0.0) -> torch.Tensor:
        return torch.nn.functional.pad(values, (0, self._width - values.shape[-1]), value=value)

    def _rotated(self, values: torch.Tensor) -> torch.Tensor:
        return rotated(values) if self._rotates else values
