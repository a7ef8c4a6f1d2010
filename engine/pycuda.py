"""CUDA's verbs by PyCUDA, which has all but graphs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from pycuda import driver

from .cuda import Bytes
from .errors import BackendError, CudaError


class PyCuda:
    """See `Cuda`. PyCUDA frees its objects when they are forgotten; here they are kept, by handle, until freed."""

    graphs = False

    def __init__(self, ordinal: int) -> None:
        self.ordinal = ordinal
        self._kept: dict[int, Any] = {}
        _checked(driver.init)
        self._context = _checked(lambda: driver.Device(ordinal).retain_primary_context())

    @contextmanager
    def current(self) -> Iterator[None]:
        """See `Cuda.current`."""
        _checked(self._context.push)
        try:
            yield
        finally:
            _checked(driver.Context.pop)

    def memory(self) -> tuple[int, int]:
        """See `Cuda.memory`."""
        free, total = _checked(driver.mem_get_info)
        return int(free), int(total)

    def allocate(self, size: int) -> int:
        """See `Cuda.allocate`."""
        return self._keep(_checked(lambda: driver.mem_alloc(size)), int)

    def free(self, pointer: int) -> None:
        """See `Cuda.free`."""
        _checked(self._kept.pop(pointer).free)

    def allocate_pinned(self, size: int) -> Bytes:
        """See `Cuda.allocate_pinned`."""
        memory: Bytes = _checked(lambda: driver.pagelocked_empty(size, np.uint8))
        return memory

    def free_pinned(self, memory: Bytes) -> None:
        """See `Cuda.free_pinned`."""
        allocation: Any = memory.base
        _checked(allocation.free)

    def create_stream(self) -> int:
        """See `Cuda.create_stream`."""
        non_blocking = 1  # CU_STREAM_NON_BLOCKING; PyCUDA gives it no name
        return self._keep(_checked(lambda: driver.Stream(non_blocking)), lambda stream: stream.handle)

    def destroy_stream(self, stream: int) -> None:
        """See `Cuda.destroy_stream`."""
        del self._kept[stream]

    def synchronize(self, stream: int) -> None:
        """See `Cuda.synchronize`."""
        _checked(self._stream(stream).synchronize)

    def upload(self, pointer: int, source: Bytes, stream: int) -> None:
        """See `Cuda.upload`."""
        _checked(lambda: driver.memcpy_htod_async(pointer, source, self._stream(stream)))

    def download(self, target: Bytes, pointer: int, stream: int) -> None:
        """See `Cuda.download`."""
        _checked(lambda: driver.memcpy_dtoh_async(target, pointer, self._stream(stream)))

    def create_event(self) -> int:
        """See `Cuda.create_event`."""
        return self._keep(_checked(driver.Event), id)

    def destroy_event(self, event: int) -> None:
        """See `Cuda.destroy_event`."""
        del self._kept[event]

    def record(self, event: int, stream: int) -> None:
        """See `Cuda.record`."""
        _checked(lambda: self._kept[event].record(self._stream(stream)))

    def elapsed_ms(self, begin: int, end: int) -> float:
        """See `Cuda.elapsed_ms`."""
        return float(_checked(lambda: self._kept[begin].time_till(self._kept[end])))

    def begin_capture(self, stream: int) -> None:
        """See `Cuda.begin_capture`."""
        raise BackendError('PyCUDA has no graphs; pip install "crossrt[tensorrt]" brings bindings that have')

    def end_capture(self, stream: int) -> int:
        """See `Cuda.end_capture`."""
        raise BackendError("PyCUDA has no graphs")

    def launch(self, graph: int, stream: int) -> None:
        """See `Cuda.launch`."""
        raise BackendError("PyCUDA has no graphs")

    def destroy_graph(self, graph: int) -> None:
        """See `Cuda.destroy_graph`."""
        raise BackendError("PyCUDA has no graphs")

    def close(self) -> None:
        """See `Cuda.close`."""
        if self._context is not None:
            _checked(self._context.detach)
            self._context = None

    def _stream(self, handle: int) -> Any:
        if handle not in self._kept:
            raise BackendError("PyCUDA cannot work on a stream that was made elsewhere; cuda-bindings can")
        return self._kept[handle]

    def _keep(self, thing: Any, handle_of: Callable[[Any], int]) -> int:
        handle = int(handle_of(thing))
        self._kept[handle] = thing
        return handle


def _checked(call: Callable[[], Any]) -> Any:
    """Return what a call returns. Raises CudaError for a failure, under the name that the driver has for it."""
    try:
        return call()
    except driver.Error as error:
        # PyCUDA says "cuMemAlloc failed: out of memory"; the names are made of those words.
        words = str(error).rpartition(": ")[2].split(" - ")[0]
        raise CudaError("CUDA_ERROR_" + words.upper().replace(" ", "_"), str(error)) from error
