"""`Session`: the protocol of a model opened on a CPU, and what its implementations share."""

from abc import ABC, abstractmethod
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..batching.batch import Batch
from ..bundle.bundle import Bundle
from ..closable import Closable
from ..errors import ShapeError
from ..precision import Precision
from ..text.encoded_pairs import EncodedPairs


class Session(Protocol):
    """A model opened by one runtime, with the memory it computes in. One contract test runs against every implementation."""

    backend: str
    device: str
    precision: Precision
    threads: int
    """Threads that compute one batch."""

    def run(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Score one padded batch.

        Returns raw logits float32 [batch, labels], before any activation; the caller owns the array. Raises ShapeError
        for a batch longer than the model's positions, and BackendError once the session is closed. Several threads may call
        at once.
        """

    def score(self, pairs: EncodedPairs, rows: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.float32]:
        """Score the pairs with these row numbers, int64 [batch]. Returns and raises as `run` does.

        `width` is the number of tokens that the rows are padded to; backends that compute no padding ignore it.
        """

    def close(self) -> None:
        """Free what the session allocated, once no thread computes with it any more. May be called again."""


class PaddedSession(Closable, ABC):
    """Base of sessions whose runtime takes padded batches only: `score` pads, then calls `run`."""

    _bundle: Bundle

    @abstractmethod
    def run(self, batch: Batch) -> npt.NDArray[np.float32]:
        """See `Session.run`."""

    def score(self, pairs: EncodedPairs, rows: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.float32]:
        """See `Session.score`."""
        return self.run(Batch.padded(pairs, rows, self._bundle.manifest.pad_token_id, width))


def check_length(batch: Batch, bundle: Bundle, precision: Precision) -> None:
    """Raise ShapeError, saying what fits, for a batch with more tokens in a row than the model has positions."""
    positions = bundle.manifest.max_positions
    if batch.shape[1] > positions:
        raise ShapeError(
            f"a batch of {batch.shape[0]} x {batch.shape[1]} tokens does not fit this model\n"
            f"  model    {bundle.manifest.source.get('id')}, {precision.value}\n"
            f"  accepts  sequence 1..{positions}\n"
            f"  try      max_length={positions}"
        )
