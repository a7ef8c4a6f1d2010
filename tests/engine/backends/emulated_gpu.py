"""The native kernels for GPUs, compiled as C++ for the CPU, over a device in memory."""

import ctypes
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from crossrt.engine.bundle.bundle import Bundle
from crossrt.engine.cuda.cublas import ProductKind
from crossrt.engine.precision import Precision
from crossrt.engine.runtime.gpu_scorer import GpuScorer
from crossrt.engine.selection.execution_config import GpuConfig
from crossrt.engine.text.encoded_pairs import EncodedPairs
from tests.engine.cuda.simulated_gpu import SimulatedGpu

EMULATED = Path(__file__).parent / "emulated"
SOURCE = Path(__file__).parents[3] / "engine" / "kernels" / "native" / "encoder.cu"


class EmulatedKernels:
    """See `CudaKernels`. Each thread of a block is a fiber. A kernel runs when its stream is waited for."""

    compiled: ClassVar[dict[tuple[object, ...], ctypes.CDLL]] = {}
    """Libraries by what they were compiled from, since a compilation takes seconds."""

    def __init__(self, device: SimulatedGpu, macros: Mapping[str, object], folder: Path) -> None:
        self.device = device
        options = [f"-D{name}={value}" for name, value in macros.items()]
        key = (SOURCE.read_bytes(), *options)
        if key not in self.compiled:
            folder.mkdir(parents=True, exist_ok=True)
            for file in (SOURCE, *EMULATED.iterdir()):  # the quoted include finds the emulated device.cuh
                shutil.copy(file, folder)
            # Of a path that it knows, dlopen returns the library that it loaded before, and pytest reuses paths.
            library = folder / f"kernels{len(self.compiled)}.so"
            words = ["g++", "-std=c++20", "-O2", "-shared", "-fPIC", *options]
            subprocess.run([*words, folder / "launch.cpp", "-o", library], check=True)
            self.compiled[key] = ctypes.CDLL(str(library))
        self.library = self.compiled[key]
        self.closed = False

    def launch(self, name: str, blocks: tuple[int, int], stream: int, count: int, *pointers: int) -> None:
        assert not self.closed

        def work() -> None:
            addresses = [self.device.at(pointer, 0).ctypes.data for pointer in pointers]
            values = [ctypes.c_int(count), *map(ctypes.c_void_p, addresses)]
            arguments = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
            self.library.launch(name.encode(), *blocks, 128, arguments)

        self.device.kernel(stream, work)

    def close(self) -> None:
        self.closed = True


class EmulatedProducts:
    """See `Cublas`. Products in NumPy with sums in FP32, and GELU in its tanh form, which is cuBLAS's."""

    def __init__(self, device: SimulatedGpu) -> None:
        self.device = device
        self.open = 0

    def product(self, kind: ProductKind) -> Any:
        self.open += 1
        return EmulatedProduct(self, kind)

    def close(self) -> None:
        assert not self.open, "closed before its products"


class EmulatedProduct:
    def __init__(self, products: EmulatedProducts, kind: ProductKind) -> None:
        self.products, self.kind = products, kind

    def enqueue(self, stream: int, x: int, weight: int, bias: int, y: int, workspace: int, spare: int = 0) -> None:
        device, kind = self.products.device, self.kind
        rows, inputs, outputs = kind.rows, kind.inputs, kind.outputs
        dtype = np.dtype(np.float32 if kind.single else np.float16)
        assert all(pointer % 256 == 0 for pointer in (x, weight, bias, y, workspace, spare))
        if kind.adds:
            # Timing would write here, before the product: neither to its operands nor beyond its buffer.
            sizes = {x: 2 * rows * inputs, y: 4 * rows * outputs}
            device.at(spare, 4 * rows * outputs)
            assert all(spare + 4 * rows * outputs <= at or at + size <= spare for at, size in sizes.items())

        def array(pointer: int, kind: Any, *shape: int) -> Any:
            size = int(np.prod(shape)) * np.dtype(kind).itemsize
            return device.at(pointer, size).view(kind).reshape(shape)

        def work() -> None:
            with np.errstate(all="ignore"):  # in rows of padding
                found = array(x, np.float16, rows, inputs).astype(np.float32) @ array(
                    weight, np.float16, outputs, inputs
                ).T.astype(np.float32)
                found *= kind.scale
                if kind.biased:
                    found += array(bias, dtype, outputs).astype(np.float32)
                if kind.gelu:
                    found = 0.5 * found * (1 + np.tanh(np.sqrt(2 / np.pi) * (found + 0.044715 * found**3)))
                result = array(y, dtype, rows, outputs)
                result[:] = (result + found if kind.adds else found).astype(dtype)

        device.kernel(stream, work)

    def close(self) -> None:
        self.products.open -= 1


def emulated_logits(bundle: Bundle, encoded: EncodedPairs, folder: Path) -> npt.NDArray[Any]:
    """Return the logits that the native kernels give for a bundle's FP16, [pairs, labels]."""
    from crossrt.engine.backends.native_cuda import NativeGpuExecutor  # where there is cuda-bindings

    device = SimulatedGpu(total=4 << 30)
    with device.current():
        executor = NativeGpuExecutor(bundle, device, **emulation(folder))
    config = GpuConfig(backend="native", precision=Precision.FP16, reason="", ordinals=(0,))
    scorer = GpuScorer(bundle, config, [executor])
    try:
        return scorer.submit(encoded, batch_size=1).wait()
    finally:
        scorer.close()


def emulation(folder: Path) -> Mapping[str, Callable[..., Any]]:
    """Return what a `NativeGpuExecutor` takes in place of a GPU's kernels and products."""
    return {
        "kernels": lambda device, macros: EmulatedKernels(device, macros, folder),
        "products": EmulatedProducts,
    }
