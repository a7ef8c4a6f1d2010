"""`PyCuda`: the driver calls through PyCUDA. It has no graphs."""

import ctypes
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from pycuda import driver

from ..errors import BackendError, CudaError
from .cuda import Bytes


class PyCuda:
    """See `Cuda`. PyCUDA frees objects when they are garbage-collected, so this class keeps them by handle until freed."""

    graphs = False

    def __init__(self, ordinal: int) -> None:
        self.ordinal = ordinal
        self._kept: dict[int, Any] = {}
        self._context = _primary_context(ordinal)

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
        """See `Cuda.close`. The context stays with the process: see `_primary_context`."""

    def _stream(self, handle: int) -> Any:
        if handle not in self._kept:
            raise BackendError("PyCUDA cannot work on a stream that was made elsewhere; cuda-bindings can")
        return self._kept[handle]

    def _keep(self, thing: Any, handle_of: Callable[[Any], int]) -> int:
        handle = int(handle_of(thing))
        self._kept[handle] = thing
        return handle


@functools.cache
def _primary_context(ordinal: int) -> Any:
    """Return a device's primary context. It is retained once per process and never released, for three reasons.

    PyCUDA's `detach` leaves a context on the thread's stack if it is not current. `detach` has no effect in a thread other than
    the one that retained the context. An object that was created under one `Context` cannot be freed under another.
    """
    _checked(driver.init)
    return _checked(lambda: driver.Device(ordinal).retain_primary_context())


def _checked(call: Callable[[], Any]) -> Any:
    """Return the result of a call. Raises CudaError, with the driver's name of the error, if it fails."""
    try:
        return call()
    except driver.Error as error:
        # PyCUDA's text is like "cuMemAlloc failed: out of memory - more words".
        words = str(error).partition(" failed: ")[2]
        names = _error_names()
        name = names.get(words) or names.get(words.partition(" - ")[0], "CUDA_ERROR_UNKNOWN")
        raise CudaError(name, f"{name} ({error})") from error


@functools.cache
def _error_names() -> dict[str, str]:
    """Return a map from the driver's error texts to its error names. PyCUDA's errors have only the text."""
    library = ctypes.CDLL("libcuda.so.1")
    names = {}
    name, words = ctypes.c_char_p(), ctypes.c_char_p()
    for code in range(1, 1000):
        asked = (library.cuGetErrorString(code, ctypes.byref(words)), library.cuGetErrorName(code, ctypes.byref(name)))
        if asked == (0, 0) and words.value and name.value:
            names[words.value.decode()] = name.value.decode()
    return names
