"""The owners of CUDA objects, and one contract for all bindings, run on a real device where there is one."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from crossrt.engine.backends.registry import has_cuda
from crossrt.engine.cuda.bindings import open_cuda
from crossrt.engine.cuda.cuda import DeviceBuffer, Event, PinnedBuffer, Stream
from crossrt.engine.errors import BackendError, CudaError
from tests.engine.cuda.simulated_gpu import SimulatedGpu


def _bindings(name: str) -> Any:
    if name == "memory":
        return SimulatedGpu()
    module = {"cuda-bindings": "cuda.bindings", "pycuda": "pycuda"}[name]
    if importlib.util.find_spec(module.split(".")[0]) is None or importlib.util.find_spec(module) is None:
        pytest.skip(f"{name} is not installed")
    try:
        if name == "pycuda":
            from crossrt.engine.cuda.pycuda import PyCuda

            return PyCuda(0)
        from crossrt.engine.cuda.cuda_bindings import CudaBindings

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


@pytest.mark.gpu
def test_a_kernel_is_launched_with_its_count_and_pointers(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a real GPU this launches `embed` for 0 tokens, which does nothing. The simulated driver records the arguments."""
    device = _bindings("cuda-bindings")
    from crossrt.engine.cuda import cuda_kernels

    in_memory = "CROSSRT_DRIVER_IN_MEMORY" in os.environ
    if in_memory:
        monkeypatch.setattr(cuda_kernels, "_called", lambda call, *rest: (13, 0))
        monkeypatch.setattr(cuda_kernels, "_compiled", lambda source, options: b"embed")
        monkeypatch.setenv("CROSSRT_CACHE", "/dev/null/nowhere")
        monkeypatch.setattr(cuda_kernels, "gpus", lambda: [SimpleNamespace(capability="9.0")])
    sizes = {"HIDDEN": 32, "WIDTH": 32, "HEADS": 1, "HEAD": 32, "ATTENDED": 32, "TYPES": 0, "LABELS": 1, "DENSE": 1}
    with device.current():
        try:
            kernels = cuda_kernels.CudaKernels(device, {**sizes, "EPSILON": "1e-12f", "ACTIVATION": 0})
        except BackendError as error:
            if "was not found" not in str(error):
                raise
            pytest.skip(str(error))
        stream, memory, host = Stream(device), DeviceBuffer(device, 40), PinnedBuffer(device, 40)
        kernels.launch("embed", (7, 3), stream.handle, 0, memory.handle, *[0x123456789AB0] * 7)
        stream.download(memory, host, 40)
        stream.synchronize()
        if in_memory:
            assert host.bytes.view(np.int64).tolist() == [7, 3, 128, 0, 0x123456789AB0]
        with pytest.raises(CudaError, match="CUDA_ERROR_NOT_FOUND"):
            kernels.launch("no such kernel", (1, 1), stream.handle, 0, memory.handle)
        kernels.close()
        kernels.close()
        for each in (stream, memory, host):
            each.close()
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


def test_without_bindings_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None)
    with pytest.raises(BackendError, match=r"crossrt\[tensorrt\]"):
        open_cuda(0)


def test_another_package_of_the_name_cuda_is_no_binding(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("cuda.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.setattr("crossrt.engine.backends.registry._has_distribution", lambda name: True)
    assert not has_cuda()
    with pytest.raises(BackendError, match="neither is installed"):
        open_cuda(0)


def test_a_compiled_kernel_is_kept_and_a_damaged_one_compiled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cuda.bindings")
    from crossrt.engine.cuda import cuda_kernels

    compiled, loaded = [], []

    def compile_one(source: Any, options: tuple[str, ...]) -> bytes:
        compiled.append(options)
        return b"good"

    def load(image: bytes) -> tuple[Any, ...]:
        loaded.append(image)
        code = cuda_kernels.driver.CUresult
        return (code.CUDA_SUCCESS, 7) if image == b"good" else (code.CUDA_ERROR_INVALID_IMAGE,)

    monkeypatch.setenv("CROSSRT_CACHE", str(tmp_path))
    monkeypatch.setattr(cuda_kernels, "gpus", lambda: [SimpleNamespace(capability="9.0")])
    monkeypatch.setattr(cuda_kernels, "_called", lambda call, *rest: (13, 0))
    monkeypatch.setattr(cuda_kernels, "_compiled", compile_one)
    monkeypatch.setattr(cuda_kernels.driver, "cuModuleLoadData", load)
    cuda: Any = SimpleNamespace(ordinal=0)
    for _ in range(2):
        cuda_kernels.CudaKernels(cuda, {"HIDDEN": 32})
    assert len(compiled) == 1
    assert compiled[0][0] == "-arch=sm_90"
    cuda_kernels.CudaKernels(cuda, {"HIDDEN": 64})
    assert len(compiled) == 2, "another model's are others"
    files = list((tmp_path / "kernels").iterdir())
    assert len(files) == 2
    for file in files:
        file.write_bytes(file.read_bytes().replace(b"good", b"evil"))
    loaded.clear()
    cuda_kernels.CudaKernels(cuda, {"HIDDEN": 32})
    assert loaded == [b"good"], "code that was altered never reaches the driver"
    loaded.clear()
    with pytest.MonkeyPatch.context() as refusing:
        refusing.setattr(cuda_kernels.CompiledModels, "load", lambda self, key: memoryview(b"goo"))
        cuda_kernels.CudaKernels(cuda, {"HIDDEN": 32})
    assert loaded == [b"goo", b"good"], "what the driver refuses is compiled again"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CROSSRT_CACHE", str(tmp_path / "file"))
    cuda_kernels.CudaKernels(cuda, {"HIDDEN": 32})  # works without a cache
    assert len(compiled) == 5


def test_the_contract_holds_on_a_driver_in_memory(tmp_path: Path) -> None:
    """The same tests with the real cuda-bindings over a simulated driver."""
    pytest.importorskip("cuda.bindings")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("no C compiler on Linux here, which the driver in memory needs")
    source = Path(__file__).parent / "libcuda.c"
    subprocess.run([compiler, "-shared", "-fPIC", source, "-o", tmp_path / "libcuda.so.1", "-ldl"], check=True)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "gpu",
        "-k",
        "cuda-bindings or kernel",
        "-p",
        "no:cacheprovider",
        __file__,
    ]
    done = subprocess.run(
        command,
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "CROSSRT_DRIVER_IN_MEMORY": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout.splitlines()[-1]


# -- the names of failures


def test_cuda_bindings_name_a_failure_as_cuda_does() -> None:
    driver = pytest.importorskip("cuda.bindings.driver")
    from crossrt.engine.cuda.cuda_bindings import checked

    assert checked((driver.CUresult.CUDA_SUCCESS,)) == ()
    assert checked((driver.CUresult.CUDA_SUCCESS, 5)) == 5
    assert checked((driver.CUresult.CUDA_SUCCESS, 5, 6)) == (5, 6)
    with pytest.raises(CudaError, match=r"^CUDA_ERROR_ILLEGAL_ADDRESS: the device's context is lost") as raised:
        checked((driver.CUresult.CUDA_ERROR_ILLEGAL_ADDRESS,))
    assert raised.value.name == "CUDA_ERROR_ILLEGAL_ADDRESS"


WORDS = {
    2: ("CUDA_ERROR_OUT_OF_MEMORY", "out of memory"),
    101: ("CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"),
    700: ("CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"),
}


@pytest.fixture
def pycuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """crossrt's module for PyCUDA, over a fake PyCUDA and fake error texts of the driver."""

    class Context:
        retained = 0

        def push(self) -> None:
            stack.append(self)

    stack: list[Context] = []

    def retain() -> Context:
        Context.retained += 1
        return Context()

    driver = SimpleNamespace(
        Error=type("Error", (Exception,), {}),
        init=lambda: None,
        Device=lambda ordinal: SimpleNamespace(retain_primary_context=retain),
        Context=SimpleNamespace(pop=stack.pop),
    )
    monkeypatch.setitem(sys.modules, "pycuda", SimpleNamespace(driver=driver))
    monkeypatch.delitem(sys.modules, "crossrt.engine.cuda.pycuda", raising=False)
    module = importlib.import_module("crossrt.engine.cuda.pycuda")

    def told(which: int) -> Any:
        def ask(code: int, where: Any) -> int:
            where._obj.value = WORDS[code][which].encode() if code in WORDS else None
            return 0 if code in WORDS else 1

        return ask

    library = SimpleNamespace(cuGetErrorName=told(0), cuGetErrorString=told(1))
    monkeypatch.setattr(module.ctypes, "CDLL", lambda name: library)
    yield SimpleNamespace(module=module, driver=driver, Context=Context, stack=stack)
    sys.modules.pop("crossrt.engine.cuda.pycuda")


@pytest.mark.parametrize(
    ("said", "name", "hint"),
    [
        ("cuMemAlloc failed: out of memory", "CUDA_ERROR_OUT_OF_MEMORY", "no memory left"),
        ("cuDeviceGet failed: invalid device ordinal - more words", "CUDA_ERROR_INVALID_DEVICE", "no such device"),
        (
            "cuStreamSynchronize failed: an illegal memory access was encountered",
            "CUDA_ERROR_ILLEGAL_ADDRESS",
            "context is lost",
        ),
        ("cuInit failed: words of another driver", "CUDA_ERROR_UNKNOWN", "nvidia-smi"),
    ],
)
def test_pycuda_names_a_failure_as_cuda_does(pycuda: Any, said: str, name: str, hint: str) -> None:
    def fail() -> None:
        raise pycuda.driver.Error(said)

    with pytest.raises(CudaError, match=hint) as raised:
        pycuda.module._checked(fail)
    assert raised.value.name == name
    assert said in str(raised.value)


def test_pycuda_keeps_one_context_of_a_device_in_a_process(pycuda: Any) -> None:
    for _ in range(3):
        cuda = pycuda.module.PyCuda(0)
        with cuda.current():
            assert len(pycuda.stack) == 1
        cuda.close()
        cuda.close()
    assert pycuda.stack == []
    assert pycuda.Context.retained == 1


def test_the_simulated_gpu_sees_faults() -> None:
    """The tests rely on it: the simulated device turns each fault into an error."""
    device = SimulatedGpu()
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
