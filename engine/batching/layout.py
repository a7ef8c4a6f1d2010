"""`BatchLayout`: the protocol for cutting a request into batches for a GPU, and for the arrays of a batch."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..bundle.profiles import Shape
from ..text.encoded_pairs import EncodedPairs

Arrays = Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]
"""Name -> dtype and shape of an array."""
Rows = npt.NDArray[np.int64]
"""Row numbers of a request, int64 [batch]."""


class BatchLayout(Protocol):
    """How batches are shaped and stored. `PaddedLayout` pads rows to one length; `PackedLayout` stores pairs without padding.

    A `Shape` is (rows, tokens). Rows are those that are computed, which may be more than the pairs. Tokens are those of each row
    if padded, and of all rows together if packed.
    """

    @property
    def max_length(self) -> int:
        """Tokens of the longest pair that fits."""

    @property
    def max_shapes(self) -> Sequence[Shape]:
        """The shapes to allocate memory for. The arrays of any other shape fit into those of one of these."""

    def split(self, lengths: npt.NDArray[np.int64], *, batch_cost: int, shares: int = 1) -> list[Rows]:
        """Cut pairs of these lengths (int64 [n], tokens) into batches, and return the rows of each.

        `batch_cost` is the cost of one more batch, in tokens. With `shares` above 1 there are at least that many batches, of
        about equal size, if there are enough pairs, so that each device gets one.
        """

    def shape(self, lengths: npt.NDArray[np.int64]) -> Shape:
        """Return the shape that a batch of pairs of these lengths is computed with."""

    def tokens(self, shape: Shape) -> int:
        """Return how many tokens are computed for this shape, including padding."""

    def arrays(self, shape: Shape) -> Arrays:
        """Return name, dtype and shape of every input array of a batch of this shape."""

    def fill(self, arrays: Mapping[str, npt.NDArray[Any]], pairs: EncodedPairs, rows: Rows) -> None:
        """Write these rows of a request into the arrays, including all padding."""
