"""`Scorer`: what scores the requests of an opened model, on whatever device."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..batching.batch import Batch
from ..bundle.bundle import Bundle
from ..text.encoded_pairs import EncodedPairs
from .cpu_scorer import CpuScorer
from .execution_config import CpuConfig, ExecutionConfig
from .pending import Pending


class Scorer(Protocol):
    """Scores requests; any number of threads may start them."""

    @property
    def config(self) -> ExecutionConfig:
        """How the model is run."""

    first_chunk: int
    """Pairs to begin with, while those that follow are tokenized."""

    tokenizing_threads: int
    """Threads that may tokenize one request."""

    @property
    def longest(self) -> int:
        """Tokens of the longest pair that it takes."""

    def submit(self, pairs: EncodedPairs, *, batch_size: int, inline: bool = False) -> Pending:
        """Begin to score a request. See `Pending`.

        With `inline` the caller will do nothing but wait, and a GPU is served by its thread, until all is computed.
        """

    def run(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Compute one batch that was padded elsewhere. See `Session.run`."""

    def close(self) -> None:
        """Wait for what is being computed, then free everything. May be called again."""


def open_scorer(bundle: Bundle, config: ExecutionConfig) -> Scorer:
    """Open a model. Raises BundleError, BackendError or CudaError when the config cannot run it."""
    if isinstance(config, CpuConfig):
        return CpuScorer(bundle, config)
    from .gpu_scorer import GpuScorer
    from .select_gpu import open_executors

    return GpuScorer(bundle, config, open_executors(bundle, config))
