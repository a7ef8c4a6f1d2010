"""`Scorer`: the protocol of `CpuScorer` and `GpuScorer`; `open_scorer` opens one of them."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..batching.batch import Batch
from ..bundle.bundle import Bundle
from ..errors import BundleError
from ..selection.execution_config import CpuConfig, ExecutionConfig
from ..text.encoded_pairs import EncodedPairs
from .cpu_scorer import CpuScorer
from .pending import Pending


class Scorer(Protocol):
    """Scores the requests of an opened model. Any number of threads may submit requests at once."""

    @property
    def config(self) -> ExecutionConfig:
        """The backend, precision and device that the model runs with."""

    first_chunk: int
    """Pairs in the first chunk of a large request. The device computes it while the next chunk is tokenized."""

    tokenizing_threads: int
    """Threads that may tokenize one chunk."""

    @property
    def max_length(self) -> int:
        """Tokens of the longest pair that the scorer takes."""

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""

    def check_open(self) -> None:
        """Raise BackendError once the scorer is closed."""

    def submit(self, pairs: EncodedPairs, *, batch_size: int, inline: bool = False, priority: int = 0) -> Pending:
        """Start to score a request; `Pending.wait` returns its logits. `batch_size` bounds the rows of a batch on a CPU.

        Requests with a lower `priority` are served first, and those of the same priority take turns. `inline` says that the
        caller has nothing else to do. On a GPU the caller's thread then computes the request before `submit` returns, unless
        another thread is computing. Raises ShapeError for a pair longer than `max_length` and BackendError once the scorer is
        closed.
        """

    def run(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Compute one padded batch. A GPU removes its padding first. See `Session.run`."""

    def close(self) -> None:
        """Cancel the batches that wait, wait for those that are being computed, then free everything. May be called again."""


def open_scorer(bundle: Bundle, config: ExecutionConfig) -> Scorer:
    """Open a model on the CPU or GPUs of `config`. Raises BundleError, BackendError or CudaError if it cannot run."""
    if isinstance(config, CpuConfig):
        return CpuScorer(bundle, config)
    from ..selection.select_gpu import open_executors
    from .gpu_scorer import GpuScorer

    scorer = GpuScorer(bundle, config, open_executors(bundle, config))
    try:
        bundle.check_same()
    except BundleError:
        scorer.close()
        raise
    return scorer
