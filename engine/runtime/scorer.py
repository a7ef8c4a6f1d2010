"""`Scorer`: what scores the requests of an opened model, on whatever device."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..batching.plan import Batch
from ..bundle.bundle import Bundle
from ..text.template import EncodedPairs
from .cpu_scorer import Streams
from .execution_config import Setup
from .pending import Pending


class Scorer(Protocol):
    """Scores requests; any number of threads may start them."""

    setup: Setup
    first_chunk: int
    """Pairs to begin with, while those that follow are tokenized."""

    tokenizing_threads: int
    """Threads that may tokenize one request."""

    @property
    def longest(self) -> int:
        """Tokens of the longest pair that it takes."""

    def start(self, pairs: EncodedPairs, *, batch_size: int, at_once: bool = False) -> Pending:
        """Begin to score a request. See `Pending`.

        With `at_once` the caller will do nothing but wait, and a GPU is served by its thread, until all is computed.
        """

    def run(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Compute one batch that was padded elsewhere. See `Session.run`."""

    def close(self) -> None:
        """Wait for what is being computed, then free everything. May be called again."""


def open_scorer(bundle: Bundle, setup: Setup) -> Scorer:
    """Open a model. Raises BundleError, BackendError or CudaError when the setup cannot run it."""
    if setup.devices == ("cpu",):
        return Streams(bundle, setup)
    from .gpu_scorer import Pipeline
    from .select_gpu import open_executors

    return Pipeline(bundle, setup, open_executors(bundle, setup))
