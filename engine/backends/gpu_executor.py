"""`GpuExecutor`: an engine or kernels that are loaded on one GPU, behind one protocol."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from ..batching.layout import BatchLayout
from ..bundle.profiles import Shape
from ..cuda.cuda import Cuda


class GpuContext(Protocol):
    """One execution context: state for one batch at a time."""

    def enqueue(self, shape: Shape, addresses: Mapping[str, int]) -> None:
        """Put one batch of this shape on the stream; `addresses` are device pointers of its every array and of `logits`.

        Raises BackendError, with what the runtime said, for a batch that it does not take.
        """

    def close(self) -> None:
        """Free it, when its stream is done."""


class GpuExecutor(Protocol):
    """A loaded engine on one device."""

    cuda: Cuda
    output: np.dtype[Any]
    lanes: int
    """BatchLayout on their way at once that it is worth to have."""
    graphs: int
    """Graphs worth keeping for each lane; 0 where batches cannot be captured."""
    workspace: int
    """Bytes of device memory that a context computes in; 0 where it takes its own."""
    batch_cost: int
    """What a batch costs beside its tokens, in tokens."""

    @property
    def layout(self) -> BatchLayout:
        """What batches it takes; equal to those of another executor that takes the same."""

    def context(self, stream: int, workspace: int) -> GpuContext:
        """Return a new context, whose batches all come on this stream. The device is current.

        `workspace` is a device pointer to as many bytes as asked for. Contexts of one stream share them: only one computes
        at a time.
        """

    def close(self) -> None:
        """Free the engine, after its contexts."""
