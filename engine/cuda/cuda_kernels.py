"""`CudaKernels`: the CUDA source, which NVRTC compiles for a GPU and a model's sizes when the model is opened. It is cached."""

import ctypes
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cuda.bindings import driver, nvrtc

from ..bundle.compiled import CompiledModels
from ..errors import BackendError, CudaError
from ..files.cache import cache_folder
from ..hardware.gpus import gpus
from .cuda import Cuda
from .cuda_bindings import checked

NATIVE = Path(__file__).parent.parent / "kernels" / "native"
FOLDER = "kernels"
KEPT = 64
"""Number of programs in the cache, one per GPU, compiler version and model sizes. Each has a few hundred kilobytes."""
THREADS = 128
"""Threads per block, of every kernel."""


class CudaKernels:
    """The kernels of `native/encoder.cu` for a model of given sizes, on one device. The device must be current in every call."""

    def __init__(self, cuda: Cuda, macros: Mapping[str, object]) -> None:
        """Load the kernels from the cache, or compile them, which takes a second. Raises BackendError if they do not compile.

        `macros` are the sizes, as preprocessor definitions.
        """
        source, options = _program(macros, gpus()[cuda.ordinal].capability)
        folder = cache_folder(FOLDER)
        cache = None if folder is None else CompiledModels(folder, KEPT)
        key = {"source": [hashlib.sha256(text).hexdigest() for text in source], "options": options}
        self._functions: dict[str, Any] = {}
        try:
            cached = None if cache is None else cache.load(key)
            self._module = None if cached is None else checked(driver.cuModuleLoadData(bytes(cached)))
        except CudaError:  # compiled for another driver
            self._module = None
        if self._module is None:
            image = _compiled(source, options)
            if cache is not None:
                cache.store(key, image)
            self._module = checked(driver.cuModuleLoadData(image))

    def launch(self, name: str, blocks: tuple[int, int], stream: int, count: int, *pointers: int) -> None:
        """Enqueue a kernel with `THREADS` threads per block. Its arguments are a count below 2^31 and device pointers."""
        if name not in self._functions:
            self._functions[name] = checked(driver.cuModuleGetFunction(self._module, name.encode()))
        kinds = (ctypes.c_int, *[ctypes.c_void_p] * len(pointers))
        checked(
            driver.cuLaunchKernel(
                *(self._functions[name], *blocks, 1, THREADS, 1, 1, 0, stream, ((count, *pointers), kinds), 0)
            )
        )

    def close(self) -> None:
        """Unload the kernels. May be called again."""
        if self._module is not None:
            module, self._module = self._module, None
            checked(driver.cuModuleUnload(module))


def capabilities_of_compiler() -> frozenset[str]:
    """Return the compute capabilities that NVRTC compiles for, such as `9.0`. Raises BackendError without NVRTC."""
    return frozenset(f"{known // 10}.{known % 10}" for known in _called(nvrtc.nvrtcGetSupportedArchs))


def _program(macros: Mapping[str, object], capability: str) -> tuple[tuple[bytes, ...], tuple[str, ...]]:
    """Return the source and the header, and the compiler's options.

    The options contain the compiler's version, so that another version does not use the cached program.
    """
    source = tuple((NATIVE / name).read_bytes() for name in ("encoder.cu", "device.cuh"))
    major, minor = _called(nvrtc.nvrtcVersion)
    options = [f"-arch=sm_{capability.replace('.', '')}", "-std=c++17", f"-DNVRTC={major}.{minor}"]
    return source, (*options, *(f"-D{name}={value}" for name, value in macros.items()))


def _compiled(source: tuple[bytes, ...], options: tuple[str, ...]) -> bytes:
    program = _called(nvrtc.nvrtcCreateProgram, source[0], b"encoder.cu", 1, [source[1]], [b"device.cuh"])
    try:
        code = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])[0]
        if code != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            log = b" " * _called(nvrtc.nvrtcGetProgramLogSize, program)
            _called(nvrtc.nvrtcGetProgramLog, program, log)
            raise BackendError(
                f"the kernels do not compile ({code.name}, {options[0]}):\n"
                + log.decode(errors="replace").strip("\0 \n")
            )
        image: bytes = b" " * _called(nvrtc.nvrtcGetCUBINSize, program)
        _called(nvrtc.nvrtcGetCUBIN, program, image)
        return image
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _called(call: Callable[..., tuple[Any, ...]], *arguments: Any) -> Any:
    """Return the values of an NVRTC call without its error code. Raises BackendError if it fails or NVRTC is not installed."""
    try:
        code, *values = call(*arguments)
    except RuntimeError as error:  # the bindings raise it if the library is missing
        raise BackendError(f'NVRTC was not found ({error}): pip install "crossrt[cuda]"') from error
    if code != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise BackendError(f"NVRTC: {code.name}")
    return values[0] if len(values) == 1 else tuple(values)
