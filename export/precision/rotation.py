"""`rotated`: Hadamard rotations of the channels that INT8 quantizes, so that one large channel does not widen a token's range.

The kernels rotate activations as they quantize them (`Int8::rotate` in engine/kernels/native/precision.h), and the weights are
multiplied by the inverse here, so that the product stays the same. In a large language model QuaRot (Ashkboos et al. 2024,
arXiv:2404.00456) rotates whole rows. Here groups of 8 channels that are 16 apart suffice; they need no shuffles within a vector.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from ...engine.bundle.native_weights import PANEL

LANES = PANEL // 2
"""Channels of a vector. A group has one channel of each of its vectors."""
VECTORS = (8, 4, 2)
"""Vectors of a group; the smaller ones at the end of a row of another width than a multiple of 128."""


def rotated(values: torch.Tensor) -> torch.Tensor:
    """Rotate the last axis, whose length is a multiple of 32, by Hadamard matrices of 1 and -1.

    The matrix of a group is symmetric, and its inverse is itself divided by `gains`.
    """
    parts = []
    for begin, end, vectors in _groups(values.shape[-1]):
        part = values[..., begin:end].reshape(*values.shape[:-1], -1, vectors, LANES)
        parts.append((_hadamard(vectors).to(values.dtype) @ part).flatten(-3))
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def gains(width: int) -> torch.Tensor:
    """Return by how much `rotated` enlarges the square of each channel, float32 [width]."""
    return torch.cat([torch.full((end - begin,), float(vectors)) for begin, end, vectors in _groups(width)])


def rotation_of(width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return of which channels each channel of `rotated` is a sum, int64 [width, 8], and with which signs, float32 [width, 8].

    The sign is 0 where a group has fewer channels.
    """
    members, signs = torch.zeros(width, VECTORS[0], dtype=torch.int64), torch.zeros(width, VECTORS[0])
    for begin, end, vectors in _groups(width):
        channels = torch.arange(begin, end).reshape(-1, vectors, LANES)
        in_group = channels.transpose(1, 2)[:, None].expand(-1, vectors, -1, -1)
        members[begin:end, :vectors] = in_group.reshape(-1, vectors)
        signs[begin:end, :vectors] = _hadamard(vectors).repeat(len(channels), 1).repeat_interleave(LANES, 0)
    return members, signs


def unrotating(weight: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the weights [outputs, inputs] that give for a rotated row what `weight` gives for the row."""
    rows = torch.from_numpy(np.ascontiguousarray(weight, dtype=np.float64))
    return (rotated(rows) / gains(rows.shape[-1])).numpy()


def rotated_moments(moments: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the second moments [channels, channels] of rotated rows from those of the rows."""
    return rotated(rotated(torch.from_numpy(np.ascontiguousarray(moments, dtype=np.float64))).T).numpy()


def _groups(width: int) -> Iterator[tuple[int, int, int]]:
    """Yield begin and end of the channels that are rotated in groups of so many vectors."""
    begin = 0
    for vectors in VECTORS:
        end = begin + (width - begin) // (vectors * LANES) * vectors * LANES
        if end > begin:
            yield begin, end, vectors
        begin = end


def _hadamard(size: int) -> torch.Tensor:
    """Return Sylvester's matrix, a power of two in size."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), matrix)
    return matrix
