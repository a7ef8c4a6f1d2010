"""`GpuExecutor` and `GpuContext`: the protocols of a model loaded on one GPU and of its execution contexts."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from ..batching.layout import BatchLayout
from ..bundle.profiles import Shape
from ..cuda.cuda import Cuda


class GpuContext(Protocol):
    """One execution context: state for one batch at a time."""

    def enqueue(self, shape: Shape, addresses: Mapping[str, int]) -> None:
        """Enqueue one batch of this shape on the stream. `addresses` holds a device pointer per input array, and `logits`.

        Raises BackendError, with the runtime's message, for a batch that the runtime refuses.
        """

    def close(self) -> None:
        """Free the context. Its stream must have no work left."""


class GpuExecutor(Protocol):
    """A model loaded on one device: a TensorRT engine, the native kernels, or ONNX Runtime."""

    cuda: Cuda
    output: np.dtype[Any]
    """Dtype of the logits on the device."""
    lanes: int
    """Lanes to open on the device, which is the number of batches in flight at once."""
    graphs: int
    """CUDA graphs to keep per lane; 0 if batches cannot be captured."""
    workspace: int
    """Bytes of device memory that a context needs for intermediate results; 0 if the runtime allocates its own."""
    batch_cost: int
    """Cost of one more batch, in tokens: `BatchLayout.split` weighs it against padding."""

    @property
    def layout(self) -> BatchLayout:
        """The batches that the executor takes. Executors that take the same batches have equal layouts."""

    def context(self, stream: int, workspace: int) -> GpuContext:
        """Return a new context that enqueues on this stream. The device must be current.

        `workspace` is a device pointer to `self.workspace` bytes. The contexts of one stream share this memory, since the
        batches of a stream are computed one after the other.
        """

    def close(self) -> None:
        """Free the model. Its contexts must be closed before."""
