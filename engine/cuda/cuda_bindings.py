"""`CudaBindings`: the driver calls through cuda-bindings."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from cuda.bindings import driver

from ..errors import CudaError
from .cuda import Bytes


class CudaBindings:
    """See `Cuda`."""

    graphs = True

    def __init__(self, ordinal: int) -> None:
        self.ordinal = ordinal
        checked(driver.cuInit(0))
        self._device = checked(driver.cuDeviceGet(ordinal))
        self._context = checked(driver.cuDevicePrimaryCtxRetain(self._device))
        self._closed = False

    @contextmanager
    def current(self) -> Iterator[None]:
        """See `Cuda.current`."""
        checked(driver.cuCtxPushCurrent(self._context))
        try:
            yield
        finally:
            checked(driver.cuCtxPopCurrent())

    def memory(self) -> tuple[int, int]:
        """See `Cuda.memory`."""
        free, total = checked(driver.cuMemGetInfo())
        return int(free), int(total)

    def allocate(self, size: int) -> int:
        """See `Cuda.allocate`."""
        return int(checked(driver.cuMemAlloc(size)))

    def free(self, pointer: int) -> None:
        """See `Cuda.free`."""
        checked(driver.cuMemFree(pointer))

    def allocate_pinned(self, size: int) -> Bytes:
        """See `Cuda.allocate_pinned`."""
        pointer = int(checked(driver.cuMemHostAlloc(size, 0)))
        memory = (ctypes.c_uint8 * size).from_address(pointer)
        return np.ctypeslib.as_array(memory)

    def free_pinned(self, memory: Bytes) -> None:
        """See `Cuda.free_pinned`."""
        checked(driver.cuMemFreeHost(memory.ctypes.data))

    def create_stream(self) -> int:
        """See `Cuda.create_stream`."""
        return int(checked(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING)))

    def destroy_stream(self, stream: int) -> None:
        """See `Cuda.destroy_stream`."""
        checked(driver.cuStreamDestroy(stream))

    def synchronize(self, stream: int) -> None:
        """See `Cuda.synchronize`."""
        checked(driver.cuStreamSynchronize(stream))

    def upload(self, pointer: int, source: Bytes, stream: int) -> None:
        """See `Cuda.upload`."""
        checked(driver.cuMemcpyHtoDAsync(pointer, source.ctypes.data, source.nbytes, stream))

    def download(self, target: Bytes, pointer: int, stream: int) -> None:
        """See `Cuda.download`."""
        checked(driver.cuMemcpyDtoHAsync(target.ctypes.data, pointer, target.nbytes, stream))

    def create_event(self) -> int:
        """See `Cuda.create_event`."""
        return int(checked(driver.cuEventCreate(driver.CUevent_flags.CU_EVENT_DEFAULT)))

    def destroy_event(self, event: int) -> None:
        """See `Cuda.destroy_event`."""
        checked(driver.cuEventDestroy(event))

    def record(self, event: int, stream: int) -> None:
        """See `Cuda.record`."""
        checked(driver.cuEventRecord(event, stream))

    def elapsed_ms(self, begin: int, end: int) -> float:
        """See `Cuda.elapsed_ms`."""
        return float(checked(driver.cuEventElapsedTime(begin, end)))

    def begin_capture(self, stream: int) -> None:
        """See `Cuda.begin_capture`."""
        # Thread-local: calls that torch makes in other threads meanwhile must not invalidate the capture.
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        checked(driver.cuStreamBeginCapture(stream, mode))

    def end_capture(self, stream: int) -> int:
        """See `Cuda.end_capture`."""
        graph = checked(driver.cuStreamEndCapture(stream))
        try:
            return int(checked(driver.cuGraphInstantiate(graph, 0)))
        finally:
            checked(driver.cuGraphDestroy(graph))

    def launch(self, graph: int, stream: int) -> None:
        """See `Cuda.launch`."""
        checked(driver.cuGraphLaunch(graph, stream))

    def destroy_graph(self, graph: int) -> None:
        """See `Cuda.destroy_graph`."""
        checked(driver.cuGraphExecDestroy(graph))

    def close(self) -> None:
        """See `Cuda.close`."""
        if not self._closed:
            self._closed = True
            checked(driver.cuDevicePrimaryCtxRelease(self._device))


def checked(returned: tuple[Any, ...]) -> Any:
    """Return the values of a driver call without its error code: one value or a tuple, which may be empty. Raises CudaError."""
    code, *values = returned
    if code != driver.CUresult.CUDA_SUCCESS:
        raise CudaError(code.name)
    return values[0] if len(values) == 1 else tuple(values)
