"""CUDA's few verbs, and what is owned on a device: buffers, pinned host memory, streams, graphs.

Two packages can give the verbs, `cuda-bindings` and PyCUDA; the first that is installed is used. Everything here is
closed by whom opened it, and every return code that is not a success becomes a `CudaError`.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..errors import BackendError, CudaError

Bytes = npt.NDArray[np.uint8]
ALIGNMENT = 256
"""Bytes: what TensorRT and tensor cores want of addresses at most, and every CUDA allocation has."""


def laid_out(sizes: Mapping[str, int]) -> tuple[dict[str, int], int]:
    """Lay things of these many bytes one after the other; return where each begins, aligned, and where the last ends."""
    places, end = {}, 0
    for name, size in sizes.items():
        places[name] = end
        end += -(-size // ALIGNMENT) * ALIGNMENT
    return places, end


class Cuda(Protocol):
    """One device, through one package's bindings. Pointers and handles are whole numbers, sizes are bytes.

    All but `current` and `close` want the device current in the calling thread. It is the device's primary context,
    which torch, ONNX Runtime and CuPy use too. Every verb raises CudaError.
    """

    ordinal: int
    graphs: bool
    """Whether these bindings can capture graphs."""

    def current(self) -> AbstractContextManager[None]:
        """Make the device current in this thread, and afterwards again what was before."""

    def memory(self) -> tuple[int, int]:
        """Return free and total bytes."""

    def allocate(self, size: int) -> int:
        """Return a pointer to device memory."""

    def free(self, pointer: int) -> None:
        """Free device memory."""

    def allocate_pinned(self, size: int) -> Bytes:
        """Return host memory that the device copies from and to by itself."""

    def free_pinned(self, memory: Bytes) -> None:
        """Free host memory; no view of it may be used any more."""

    def create_stream(self) -> int:
        """Return a stream that does not wait for the default one."""

    def destroy_stream(self, stream: int) -> None:
        """Free a stream when its work is done."""

    def synchronize(self, stream: int) -> None:
        """Wait for a stream's work."""

    def upload(self, pointer: int, source: Bytes, stream: int) -> None:
        """Copy pinned host memory to the device, in the stream's turn."""

    def download(self, target: Bytes, pointer: int, stream: int) -> None:
        """Copy device memory to pinned host memory, in the stream's turn."""

    def create_event(self) -> int:
        """Return an event that keeps its time."""

    def destroy_event(self, event: int) -> None:
        """Free an event."""

    def record(self, event: int, stream: int) -> None:
        """Note the time at the stream's turn."""

    def elapsed_ms(self, begin: int, end: int) -> float:
        """Return the milliseconds between two events that have happened."""

    def begin_capture(self, stream: int) -> None:
        """Note what is put on the stream from here on, and do none of it."""

    def end_capture(self, stream: int) -> int:
        """Return what was noted, as a graph."""

    def launch(self, graph: int, stream: int) -> None:
        """Do all of a graph, in the stream's turn."""

    def destroy_graph(self, graph: int) -> None:
        """Free a graph."""

    def close(self) -> None:
        """Give the primary context back. May be called again."""


class _Owned:
    """Something with a handle that is freed once."""

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
    """`size` bytes of host memory, at `bytes`, that the device copies from and to by itself."""

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
    """Work that a stream has noted, to be done as one."""


class Event(_Owned):
    """A moment of a stream."""

    def __init__(self, cuda: Cuda) -> None:
        super().__init__(cuda.create_event(), cuda.destroy_event)


class Stream(_Owned):
    """Work that is done in order. `borrowed` names a stream of the caller's, which is used and never freed."""

    def __init__(self, cuda: Cuda, *, borrowed: int | None = None) -> None:
        if borrowed is None:
            super().__init__(cuda.create_stream(), cuda.destroy_stream)
        else:
            super().__init__(borrowed, lambda handle: None)
        self._cuda = cuda

    def synchronize(self) -> None:
        """Wait until all is done."""
        self._cuda.synchronize(self.handle)

    def upload(self, source: PinnedBuffer, target: DeviceBuffer, size: int) -> None:
        """Copy the first `size` bytes up. Raises BackendError for more than either holds."""
        _check_copy(size, source.size, target.size)
        self._cuda.upload(target.handle, source.bytes[:size], self.handle)

    def download(self, source: DeviceBuffer, target: PinnedBuffer, size: int) -> None:
        """Copy the first `size` bytes down. Raises BackendError for more than either holds."""
        _check_copy(size, source.size, target.size)
        self._cuda.download(target.bytes[:size], source.handle, self.handle)

    def record(self, event: Event) -> None:
        """Note the time at this point."""
        self._cuda.record(event.handle, self.handle)

    def captured(self, work: Callable[[], None]) -> Graph:
        """Return what `work` puts on this stream as a graph; none of it is done."""
        self._cuda.begin_capture(self.handle)
        try:
            work()
        except BaseException:
            # The capture must end, or the stream can never be used again; what it gives is broken.
            with suppress(CudaError):
                self._cuda.destroy_graph(self._cuda.end_capture(self.handle))
            raise
        return Graph(self._cuda.end_capture(self.handle), self._cuda.destroy_graph)

    def launch(self, graph: Graph) -> None:
        """Do all of a graph."""
        self._cuda.launch(graph.handle, self.handle)


def _check_copy(size: int, source: int, target: int) -> None:
    if size > min(source, target):
        raise BackendError(f"a copy of {size} bytes from {source} to {target}: one of them is too small")
