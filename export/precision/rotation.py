"""`rotated`: Hadamard rotations of the channels that INT8 quantizes, so that one large channel does not widen a token's range.

The kernels rotate activations when they quantize them (`Int8::rotate` in engine/kernels/native/precision.h). The weights are
multiplied by the inverse here, so the product does not change. QuaRot (Ashkboos et al. 2024, arXiv:2404.00456) rotates whole rows
of large language models. Here it is enough to rotate groups of 8 channels that are 16 apart. Such groups need no shuffles within
a vector.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from ...engine.bundle.native_weights import PANEL

LANES = PANEL // 2
"""Channels of a vector. A panel has two vectors. A group of rotated channels has one channel from each of its vectors."""
VECTORS = (8, 4, 2)
"""Possible numbers of vectors in a group. The smaller ones are for the end of a row whose width is not a multiple of 128."""


def rotated(values: torch.Tensor) -> torch.Tensor:
    """Rotate the last axis, whose length is a multiple of 32, by Hadamard matrices of 1 and -1.

    A group's matrix is symmetric. Its inverse is the same matrix divided by `gains`.
    """
    parts = []
    for begin, end, vectors in _groups(values.shape[-1]):
        part = values[..., begin:end].reshape(*values.shape[:-1], -1, vectors, LANES)
        parts.append((_hadamard(vectors).to(values.dtype) @ part).flatten(-3))
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def gains(width: int) -> torch.Tensor:
    """Return, for each channel, the factor by which `rotated` enlarges its group's sum of squares, float32 [width]."""
    return torch.cat([torch.full((end - begin,), float(vectors)) for begin, end, vectors in _groups(width)])


def rotation_of(width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which channels are summed into each channel of `rotated`, int64 [width, 8], and their signs, float32 [width, 8].

    If a group has fewer than 8 channels, the remaining signs are 0.
    """
    members, signs = torch.zeros(width, VECTORS[0], dtype=torch.int64), torch.zeros(width, VECTORS[0])
    for begin, end, vectors in _groups(width):
        channels = torch.arange(begin, end).reshape(-1, vectors, LANES)
        in_group = channels.transpose(1, 2)[:, None].expand(-1, vectors, -1, -1)
        members[begin:end, :vectors] = in_group.reshape(-1, vectors)
        signs[begin:end, :vectors] = _hadamard(vectors).repeat(len(channels), 1).repeat_interleave(LANES, 0)
    return members, signs


def inverse_rotated(weight: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return weights [outputs, inputs] whose product with a rotated row equals that of `weight` with the original row."""
    rows = torch.from_numpy(np.ascontiguousarray(weight, dtype=np.float64))
    return (rotated(rows) / gains(rows.shape[-1])).numpy()


def rotated_moments(moments: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the second moments [channels, channels] of rotated rows, given those of the original rows."""
    return rotated(rotated(torch.from_numpy(np.ascontiguousarray(moments, dtype=np.float64))).T).numpy()


def _groups(width: int) -> Iterator[tuple[int, int, int]]:
    """Yield begin and end of each range of channels, and the number of vectors in its groups."""
    begin = 0
    for vectors in VECTORS:
        end = begin + (width - begin) // (vectors * LANES) * vectors * LANES
        if end > begin:
            yield begin, end, vectors
        begin = end


def _hadamard(size: int) -> torch.Tensor:
    """Return Sylvester's Hadamard matrix. `size` is a power of two."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), matrix)
    return matrix
