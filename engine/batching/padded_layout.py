"""`PaddedLayout`: rows padded to one length, as ONNX models and TensorRT engines take them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..bundle.profiles import Shape
from ..text.encoded_pairs import EncodedPairs
from .batch import unpadded_indices
from .layout import Arrays, Rows
from .shape_buckets import ShapeBuckets


@dataclass(frozen=True, slots=True)
class PaddedLayout:
    """See `BatchLayout`. A shape is the rows of a batch and the tokens of each row.

    `buckets` rounds shapes up. `inputs` are the names and dtypes of the ONNX model's inputs, `pad_id` is the id of the padding
    token.
    """

    buckets: ShapeBuckets
    inputs: Mapping[str, np.dtype[Any]]
    pad_id: int

    @property
    def max_length(self) -> int:
        """See `BatchLayout.max_length`."""
        return self.buckets.max_length

    @property
    def max_shapes(self) -> Sequence[Shape]:
        """See `BatchLayout.max_shapes`."""
        return self.buckets.limits

    def split(self, lengths: npt.NDArray[np.int64], *, batch_cost: int, shares: int = 1) -> list[Rows]:
        """See `ShapeBuckets.split`."""
        return self.buckets.split(lengths, batch_cost=batch_cost, shares=shares)

    def shape(self, lengths: npt.NDArray[np.int64]) -> Shape:
        """See `BatchLayout.shape`."""
        return self.buckets.rounded((len(lengths), int(lengths.max())))

    def tokens(self, shape: Shape) -> int:
        """See `BatchLayout.tokens`."""
        return shape[0] * shape[1]

    def arrays(self, shape: Shape) -> Arrays:
        """See `BatchLayout.arrays`."""
        return {name: (dtype, shape) for name, dtype in self.inputs.items()}

    def fill(self, arrays: Mapping[str, npt.NDArray[Any]], pairs: EncodedPairs, rows: Rows) -> None:
        """See `BatchLayout.fill`."""
        real, source = unpadded_indices(pairs, rows, arrays["input_ids"].shape[1])
        for name, array in arrays.items():
            if name == "attention_mask":
                array[: len(rows)] = real
                array[len(rows) :] = 0
                array[len(rows) :, 0] = 1  # some kernels give NaN for a row that attends to no token
            else:
                array.fill(self.pad_id if name == "input_ids" else 0)
                array[: len(rows)][real] = (pairs.ids if name == "input_ids" else pairs.type_ids)[source]
