"""What is owned on a device; and one contract for all bindings, on a real device where there is one."""

import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from crossrt.engine.cuda import DeviceBuffer, Event, PinnedBuffer, Stream, open_cuda
from crossrt.engine.errors import BackendError, CudaError
from tests.engine.memory_device import MemoryDevice


def _bindings(name: str) -> Any:
    if name == "memory":
        return MemoryDevice()
    module = {"cuda-bindings": "cuda.bindings", "pycuda": "pycuda"}[name]
    if importlib.util.find_spec(module.split(".")[0]) is None or importlib.util.find_spec(module) is None:
        pytest.skip(f"{name} is not installed")
    try:
        if name == "pycuda":
            from crossrt.engine.pycuda import PyCuda

            return PyCuda(0)
        from crossrt.engine.cuda_bindings import CudaBindings

        return CudaBindings(0)
    except (CudaError, ImportError, RuntimeError) as error:
        pytest.skip(f"no GPU: {error}")


@pytest.fixture(
    params=[
        "memory",
        pytest.param("cuda-bindings", marks=pytest.mark.gpu),
        pytest.param("pycuda", marks=pytest.mark.gpu),
    ]
)
def cuda(request: pytest.FixtureRequest) -> Iterator[Any]:
    device = _bindings(request.param)
    with device.current():
        yield device
    device.close()


def test_bytes_go_up_and_come_down(cuda: Any) -> None:
    up, down, device = PinnedBuffer(cuda, 4096), PinnedBuffer(cuda, 4096), DeviceBuffer(cuda, 4096)
    stream = Stream(cuda)
    up.bytes[:] = np.arange(4096).astype(np.uint8)
    down.bytes[:] = 0
    stream.upload(up, device, 1000)
    stream.download(device, down, 1000)
    stream.synchronize()
    assert np.array_equal(down.bytes[:1000], up.bytes[:1000])
    assert not down.bytes[1000:].any()
    for each in (stream, up, down, device):
        each.close()


def test_a_graph_does_again_what_was_captured(cuda: Any) -> None:
    if not cuda.graphs:
        pytest.skip("these bindings have no graphs")
    up, down, device = PinnedBuffer(cuda, 64), PinnedBuffer(cuda, 64), DeviceBuffer(cuda, 64)
    stream = Stream(cuda)

    def work() -> None:
        stream.upload(up, device, 64)
        stream.download(device, down, 64)

    work()
    stream.synchronize()
    graph = stream.captured(work)
    for value in (3, 7):
        up.bytes[:] = value
        stream.launch(graph)
        stream.synchronize()
        assert (down.bytes == value).all()
    for each in (graph, stream, up, down, device):
        each.close()


def test_a_capture_that_fails_leaves_the_stream_usable(cuda: Any) -> None:
    if not cuda.graphs:
        pytest.skip("these bindings have no graphs")
    stream = Stream(cuda)
    with pytest.raises(ZeroDivisionError):
        stream.captured(lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    up, device = PinnedBuffer(cuda, 8), DeviceBuffer(cuda, 8)
    stream.upload(up, device, 8)
    stream.synchronize()
    for each in (stream, up, device):
        each.close()


def test_memory_comes_back(cuda: Any) -> None:
    before, _ = cuda.memory()
    size = 64 << 20
    buffer = DeviceBuffer(cuda, size)
    assert cuda.memory()[0] <= before - size
    buffer.close()
    buffer.close()
    assert abs(cuda.memory()[0] - before) <= 1 << 20


def test_an_impossible_size_is_out_of_memory_with_what_to_do(cuda: Any) -> None:
    with pytest.raises(CudaError, match="no memory left: close what else") as raised:
        DeviceBuffer(cuda, 1 << 46)
    assert raised.value.name == "CUDA_ERROR_OUT_OF_MEMORY"


def test_time_passes_between_events(cuda: Any) -> None:
    stream, begin, end = Stream(cuda), Event(cuda), Event(cuda)
    stream.record(begin)
    stream.record(end)
    stream.synchronize()
    assert cuda.elapsed_ms(begin.handle, end.handle) >= 0
    for each in (stream, begin, end):
        each.close()


def test_a_copy_beyond_a_buffer_is_refused(cuda: Any) -> None:
    up, device, stream = PinnedBuffer(cuda, 16), DeviceBuffer(cuda, 8), Stream(cuda)
    with pytest.raises(BackendError, match="16 bytes from 16 to 8"):
        stream.upload(up, device, 16)
    for each in (stream, up, device):
        each.close()


def test_what_is_closed_cannot_be_used(cuda: Any) -> None:
    stream = Stream(cuda)
    stream.close()
    with pytest.raises(BackendError, match="Stream is closed"):
        stream.synchronize()


def test_a_borrowed_stream_is_used_and_not_freed() -> None:
    device = MemoryDevice()
    with device.current():
        owner = Stream(device)
        borrowed = Stream(device, borrowed=owner.handle)
        borrowed.synchronize()
        borrowed.close()
        owner.synchronize()
        owner.close()
    assert device.left_behind == []


def test_without_bindings_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None)
    with pytest.raises(BackendError, match=r"crossrt\[tensorrt\]"):
        open_cuda(0)


def test_the_memory_device_sees_faults() -> None:
    """What the tests above rely on: each fault is an error there."""
    device = MemoryDevice()
    with device.current():
        pointer, stream, pinned = device.allocate(8), device.create_stream(), device.allocate_pinned(8)
        device.upload(pointer, pinned, stream)
        device.free(pointer)
        with pytest.raises(AssertionError, match="was freed"):
            device.synchronize(stream)
        with pytest.raises(KeyError):
            device.free(pointer)
        with pytest.raises(AssertionError, match="not pinned"):
            device.upload(pointer, np.zeros(8, np.uint8), stream)
        assert device.left_behind == ["pinned", "streams"]
    with pytest.raises(AssertionError, match="not current"):
        device.allocate(8)
