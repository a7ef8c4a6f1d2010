"""`Cuda`: the protocol of the CUDA driver calls that crossrt uses; and the owners of buffers, streams, events and graphs.

`cuda-bindings` or PyCUDA implements the protocol, whichever `open_cuda` finds first. The caller that opens an object must close
it. Every failed driver call raises `CudaError`.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..errors import BackendError, CudaError

Bytes = npt.NDArray[np.uint8]
ALIGNMENT = 256
"""Alignment of addresses in bytes. TensorRT and tensor cores require no more, and every CUDA allocation has it."""


def laid_out(sizes: Mapping[str, int]) -> tuple[dict[str, int], int]:
    """Place parts one after the other. `sizes` are in bytes. Return the aligned offset of each part, and the total size."""
    places, end = {}, 0
    for name, size in sizes.items():
        places[name] = end
        end += -(-size // ALIGNMENT) * ALIGNMENT
    return places, end


class Cuda(Protocol):
    """The driver calls on one device. Pointers and handles are integers, sizes are bytes.

    All methods except `current` and `close` require the device to be current in the calling thread. They use the device's primary
    context, which torch, ONNX Runtime and CuPy use too. Every method raises CudaError when the driver reports a failure.
    """

    ordinal: int
    graphs: bool
    """Whether these bindings can capture graphs."""

    def current(self) -> AbstractContextManager[None]:
        """Make the device current in this thread for the block; the previous device is current again afterwards."""

    def memory(self) -> tuple[int, int]:
        """Return the free and the total device memory in bytes."""

    def allocate(self, size: int) -> int:
        """Return a pointer to device memory."""

    def free(self, pointer: int) -> None:
        """Free device memory."""

    def allocate_pinned(self, size: int) -> Bytes:
        """Return page-locked host memory, which the device copies from and to without the CPU."""

    def free_pinned(self, memory: Bytes) -> None:
        """Free host memory; no view of it may be used any more."""

    def create_stream(self) -> int:
        """Return a stream that does not synchronize with the default stream."""

    def destroy_stream(self, stream: int) -> None:
        """Free a stream. It must have no work left."""

    def synchronize(self, stream: int) -> None:
        """Wait until a stream has done all its work."""

    def upload(self, pointer: int, source: Bytes, stream: int) -> None:
        """Enqueue a copy from pinned host memory to the device."""

    def download(self, target: Bytes, pointer: int, stream: int) -> None:
        """Enqueue a copy from the device to pinned host memory."""

    def create_event(self) -> int:
        """Return an event that records its time."""

    def destroy_event(self, event: int) -> None:
        """Free an event."""

    def record(self, event: int, stream: int) -> None:
        """Enqueue an event, whose time is taken when the stream reaches it."""

    def elapsed_ms(self, begin: int, end: int) -> float:
        """Return the milliseconds between two recorded events."""

    def begin_capture(self, stream: int) -> None:
        """Start to capture the work that is enqueued on the stream. It is not executed."""

    def end_capture(self, stream: int) -> int:
        """Return the captured work as a graph that can be launched."""

    def launch(self, graph: int, stream: int) -> None:
        """Enqueue all work of a graph."""

    def destroy_graph(self, graph: int) -> None:
        """Free a graph."""

    def close(self) -> None:
        """Release the primary context. May be called again."""


class _Owned:
    """Base of objects with a handle of the driver, which `close` frees once."""

    def __init__(self, handle: int, free: Callable[[int], None]) -> None:
        self._handle = handle
        self._free = free
        self._closed = False

    @property
    def handle(self) -> int:
        """The pointer or handle. Raises BackendError once closed."""
        if self._closed:
            raise BackendError(f"this {type(self).__name__} is closed")
        return self._handle

    def close(self) -> None:
        """Free it. May be called again."""
        if not self._closed:
            self._closed = True
            self._free(self._handle)


class DeviceBuffer(_Owned):
    """`size` bytes of device memory."""

    def __init__(self, cuda: Cuda, size: int) -> None:
        super().__init__(cuda.allocate(size), cuda.free)
        self.size = size


class PinnedBuffer:
    """`size` bytes of page-locked host memory, as the array `bytes`."""

    def __init__(self, cuda: Cuda, size: int) -> None:
        self._cuda = cuda
        self.size = size
        self.bytes: Bytes = cuda.allocate_pinned(size)

    def close(self) -> None:
        """Free it. May be called again."""
        if len(self.bytes):
            memory, self.bytes = self.bytes, np.empty(0, dtype=np.uint8)
            self._cuda.free_pinned(memory)


class Graph(_Owned):
    """A CUDA graph: captured work of a stream, launched with one call."""


class Event(_Owned):
    """A CUDA event, which records when a stream reaches it."""

    def __init__(self, cuda: Cuda) -> None:
        super().__init__(cuda.create_event(), cuda.destroy_event)


class Stream(_Owned):
    """A CUDA stream: its work is done in the order it was enqueued."""

    def __init__(self, cuda: Cuda) -> None:
        super().__init__(cuda.create_stream(), cuda.destroy_stream)
        self._cuda = cuda

    def synchronize(self) -> None:
        """Wait until the stream has done all its work."""
        self._cuda.synchronize(self.handle)

    def upload(self, source: PinnedBuffer, target: DeviceBuffer, size: int) -> None:
        """Enqueue a copy of the first `size` bytes to the device. Raises BackendError if either buffer is smaller."""
        _check_copy(size, source.size, target.size)
        self._cuda.upload(target.handle, source.bytes[:size], self.handle)

    def download(self, source: DeviceBuffer, target: PinnedBuffer, size: int) -> None:
        """Enqueue a copy of the first `size` bytes to the host. Raises BackendError if either buffer is smaller."""
        _check_copy(size, source.size, target.size)
        self._cuda.download(target.bytes[:size], source.handle, self.handle)

    def record(self, event: Event) -> None:
        """Enqueue an event."""
        self._cuda.record(event.handle, self.handle)

    def captured(self, work: Callable[[], None]) -> Graph:
        """Return a graph of the work that `work` enqueues on this stream. None of it is executed."""
        self._cuda.begin_capture(self.handle)
        try:
            work()
        except BaseException:
            # A stream whose capture is not ended cannot be used again. If ending it returns a graph, the graph is freed.
            with suppress(CudaError):
                self._cuda.destroy_graph(self._cuda.end_capture(self.handle))
            raise
        return Graph(self._cuda.end_capture(self.handle), self._cuda.destroy_graph)

    def launch(self, graph: Graph) -> None:
        """Enqueue all work of a graph."""
        self._cuda.launch(graph.handle, self.handle)


def _check_copy(size: int, source: int, target: int) -> None:
    if size > min(source, target):
        raise BackendError(f"a copy of {size} bytes from {source} to {target}: one of them is too small")
