"""CUDA source, compiled for the GPU at hand when a model is opened, and kept in the user's cache."""

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
"""Programs kept: one for each GPU, compiler and model's sizes. Each has some hundred kilobytes."""
THREADS = 128
"""Of every block."""


class CudaKernels:
    """Kernels of `native/encoder.cu` for a model of given sizes, on one device, which is current wherever this is used."""

    def __init__(self, cuda: Cuda, macros: Mapping[str, object]) -> None:
        """Compile and load them, which takes a second the first time. Raises BackendError where they cannot be compiled."""
        source, options = _program(macros, gpus()[cuda.ordinal].capability)
        folder = cache_folder(FOLDER)
        kept = None if folder is None else CompiledModels(folder, KEPT)
        key = {"source": [hashlib.sha256(text).hexdigest() for text in source], "options": options}
        self._functions: dict[str, Any] = {}
        try:
            found = None if kept is None else kept.load(key)
            self._module = None if found is None else checked(driver.cuModuleLoadData(bytes(found)))
        except CudaError:  # whole, and not for this driver
            self._module = None
        if self._module is None:
            image = _compiled(source, options)
            if kept is not None:
                kept.store(key, image)
            self._module = checked(driver.cuModuleLoadData(image))

    def launch(self, name: str, blocks: tuple[int, int], stream: int, count: int, *pointers: int) -> None:
        """Put a kernel of blocks of 128 threads on a stream. Its arguments are a count, below 2^31, and device pointers."""
        if name not in self._functions:
            self._functions[name] = checked(driver.cuModuleGetFunction(self._module, name.encode()))
        kinds = (ctypes.c_int, *[ctypes.c_void_p] * len(pointers))
        checked(
            driver.cuLaunchKernel(
                *(self._functions[name], *blocks, 1, THREADS, 1, 1, 0, stream, ((count, *pointers), kinds), 0)
            )
        )

    def close(self) -> None:
        """Unload them. May be called again."""
        if self._module is not None:
            module, self._module = self._module, None
            checked(driver.cuModuleUnload(module))


def capabilities_of_compiler() -> frozenset[str]:
    """Return the compute capabilities that NVRTC compiles for, such as `9.0`. Raises BackendError without NVRTC."""
    return frozenset(f"{known // 10}.{known % 10}" for known in _said(nvrtc.nvrtcGetSupportedArchs))


def _program(macros: Mapping[str, object], capability: str) -> tuple[tuple[bytes, ...], tuple[str, ...]]:
    """Source, header and options, and the compiler's version among them, since its code may be another."""
    source = tuple((NATIVE / name).read_bytes() for name in ("encoder.cu", "device.cuh"))
    major, minor = _said(nvrtc.nvrtcVersion)
    options = [f"-arch=sm_{capability.replace('.', '')}", "-std=c++17", f"-DNVRTC={major}.{minor}"]
    return source, (*options, *(f"-D{name}={value}" for name, value in macros.items()))


def _compiled(source: tuple[bytes, ...], options: tuple[str, ...]) -> bytes:
    program = _said(nvrtc.nvrtcCreateProgram, source[0], b"encoder.cu", 1, [source[1]], [b"device.cuh"])
    try:
        code = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])[0]
        if code != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            said = b" " * _said(nvrtc.nvrtcGetProgramLogSize, program)
            _said(nvrtc.nvrtcGetProgramLog, program, said)
            raise BackendError(
                f"the kernels do not compile ({code.name}, {options[0]}):\n"
                + said.decode(errors="replace").strip("\0 \n")
            )
        image: bytes = b" " * _said(nvrtc.nvrtcGetCUBINSize, program)
        _said(nvrtc.nvrtcGetCUBIN, program, image)
        return image
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _said(call: Callable[..., tuple[Any, ...]], *arguments: Any) -> Any:
    """Call NVRTC. Raises BackendError where it fails or is not there."""
    try:
        code, *values = call(*arguments)
    except RuntimeError as error:  # the bindings' way of telling that the library is not there
        raise BackendError(f'NVRTC was not found ({error}): pip install "crossrt[cuda]"') from error
    if code != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise BackendError(f"NVRTC: {code.name}")
    return values[0] if len(values) == 1 else tuple(values)
