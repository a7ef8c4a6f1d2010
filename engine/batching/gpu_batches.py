"""How batches for a GPU are cut from a request, and how they lie in memory: padded here, packed in `packed.py`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..bundle.tensorrt_engine import Shape
from ..text.template import EncodedPairs
from .plan import cells
from .shape_buckets import Lattice

Arrays = Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]
Rows = npt.NDArray[np.int64]


class Batches(Protocol):
    """A kind of batch. Its `Shape` is rows, at least those of pairs, and tokens, of each row or of all, as they are computed."""

    @property
    def longest(self) -> int:
        """Tokens of the longest pair that fits."""

    @property
    def largest(self) -> Sequence[Shape]:
        """The shapes that memory is taken for; no other needs more of each array."""

    def parts(self, lengths: npt.NDArray[np.int64], *, batch_cost: int, shares: int = 1) -> list[Rows]:
        """Cut pairs of these lengths (int64 [n], tokens) into the rows of batches; with several `shares` at least so many, of
        about one each, if there are pairs enough."""

    def shape(self, lengths: npt.NDArray[np.int64]) -> Shape:
        """Return what pairs of these lengths are computed as."""

    def tokens(self, shape: Shape) -> int:
        """Return how many tokens are computed."""

    def arrays(self, shape: Shape) -> Arrays:
        """Name, dtype and shape of every array that goes to the device."""

    def fill(self, arrays: Mapping[str, npt.NDArray[Any]], pairs: EncodedPairs, rows: Rows) -> None:
        """Write a batch into them, padding included."""


@dataclass(frozen=True, slots=True)
class PaddedBatches:
    """See `Batches`. Rows of one length, which an ONNX model takes; `inputs` are its own, `pad_id` is the token of padding."""

    lattice: Lattice
    inputs: Mapping[str, np.dtype[Any]]
    pad_id: int

    @property
    def longest(self) -> int:
        """See `Batches.longest`."""
        return self.lattice.longest

    @property
    def largest(self) -> Sequence[Shape]:
        """See `Batches.largest`."""
        return self.lattice.limits

    def parts(self, lengths: npt.NDArray[np.int64], *, batch_cost: int, shares: int = 1) -> list[Rows]:
        """See `Lattice.parts`."""
        return self.lattice.parts(lengths, batch_cost=batch_cost, shares=shares)

    def shape(self, lengths: npt.NDArray[np.int64]) -> Shape:
        """See `Batches.shape`."""
        return self.lattice.rounded((len(lengths), int(lengths.max())))

    def tokens(self, shape: Shape) -> int:
        """See `Batches.tokens`."""
        return shape[0] * shape[1]

    def arrays(self, shape: Shape) -> Arrays:
        """See `Batches.arrays`."""
        return {name: (dtype, shape) for name, dtype in self.inputs.items()}

    def fill(self, arrays: Mapping[str, npt.NDArray[Any]], pairs: EncodedPairs, rows: Rows) -> None:
        """See `Batches.fill`."""
        real, source = cells(pairs, rows, arrays["input_ids"].shape[1])
        for name, array in arrays.items():
            if name == "attention_mask":
                array[: len(rows)] = real
                array[len(rows) :] = 0
                array[len(rows) :, 0] = 1  # a row that attends to nothing would be NaN in some kernels
            else:
                array.fill(self.pad_id if name == "input_ids" else 0)
                array[: len(rows)][real] = (pairs.ids if name == "input_ids" else pairs.type_ids)[source]
