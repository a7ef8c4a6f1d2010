"""`Session`: an opened model that owns its memory, and what its implementations share."""

from abc import ABC, abstractmethod
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..batching.batch import Batch
from ..bundle.bundle import Bundle
from ..errors import ShapeError
from ..precision import Precision
from ..text.encoded_pairs import EncodedPairs


class Session(Protocol):
    """An opened model. One contract test runs against every implementation."""

    backend: str
    device: str
    precision: Precision
    threads: int
    """Threads that compute one batch."""

    def run(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Score one padded batch.

        Returns raw logits float32 [batch, labels], before any activation; the caller owns the array. Raises ShapeError
        for a batch longer than the model's positions. Several threads may call at once.
        """

    def score(self, pairs: EncodedPairs, rows: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.float32]:
        """Score these rows of a request, padded to `width` tokens by who wants padding. See `run`."""

    def close(self) -> None:
        """Free what the session allocated. May be called again."""


class Padding(ABC):
    """Makes batches for a runtime that takes nothing else."""

    _bundle: Bundle

    @abstractmethod
    def run(self, batch: Batch) -> npt.NDArray[np.float32]:
        """See `Session.run`."""

    def score(self, pairs: EncodedPairs, rows: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.float32]:
        """See `Session.score`."""
        return self.run(Batch.padded(pairs, rows, self._bundle.manifest.pad_token_id, width))


def check_length(batch: Batch, bundle: Bundle, precision: Precision) -> None:
    """Raise ShapeError, saying what fits, for a batch longer than the model's positions."""
    positions = bundle.manifest.max_positions
    if batch.shape[1] > positions:
        raise ShapeError(
            f"a batch of {batch.shape[0]} x {batch.shape[1]} tokens does not fit this model\n"
            f"  model    {bundle.manifest.source.get('id')}, {precision.value}\n"
            f"  accepts  sequence 1..{positions}\n"
            f"  try      max_length={positions}"
        )
