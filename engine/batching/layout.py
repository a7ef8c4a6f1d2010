"""`BatchLayout`: how a request is cut into batches for a GPU, and how a batch lies in memory."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..bundle.profiles import Shape
from ..text.encoded_pairs import EncodedPairs

Arrays = Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]
Rows = npt.NDArray[np.int64]


class BatchLayout(Protocol):
    """A kind of batch. Its `Shape` is rows, at least those of pairs, and tokens, of each row or of all, as they are computed."""

    @property
    def longest(self) -> int:
        """Tokens of the longest pair that fits."""

    @property
    def largest(self) -> Sequence[Shape]:
        """The shapes that memory is taken for; no other needs more of each array."""

    def split(self, lengths: npt.NDArray[np.int64], *, batch_cost: int, shares: int = 1) -> list[Rows]:
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
