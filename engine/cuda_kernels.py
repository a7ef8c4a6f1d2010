"""CUDA source, compiled for the GPU at hand when a model is opened, and kept in the user's cache."""

import ctypes
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cuda.bindings import driver, nvrtc

from .cuda import Cuda
from .cuda_bindings import checked
from .driver import gpus
from .errors import BackendError

NATIVE = Path(__file__).with_name("native")
CACHE = Path("~/.cache/crossrt/kernels")
THREADS = 128
"""Of every block."""


class CudaKernels:
    """Kernels of `native/encoder.cu` for a model of given sizes, on one device, which is current wherever this is used."""

    def __init__(self, cuda: Cuda, macros: Mapping[str, object]) -> None:
        """Compile and load them, which takes a second the first time. Raises BackendError where they cannot be compiled."""
        self._module = checked(driver.cuModuleLoadData(_compiled(macros, gpus()[cuda.ordinal].capability)))
        self._functions: dict[str, Any] = {}

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


def _compiled(macros: Mapping[str, object], capability: str) -> bytes:
    def compiled(returned: tuple[Any, ...]) -> Any:
        code, *values = returned
        if code != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise BackendError(f"NVRTC: {code.name}")
        return values[0] if len(values) == 1 else None

    source, header = ((NATIVE / name).read_bytes() for name in ("encoder.cu", "device.cuh"))
    try:
        version = compiled(nvrtc.nvrtcVersion())
    except RuntimeError as error:  # the bindings' way of telling that the library is not there
        raise BackendError(f'NVRTC was not found ({error}): pip install "crossrt[cuda]"') from error
    options = [f"-arch=sm_{capability.replace('.', '')}", "-std=c++17"]
    options += [f"-D{name}={value}" for name, value in macros.items()]
    digest = hashlib.sha256(repr((source, header, options, version)).encode()).hexdigest()
    kept = CACHE.expanduser() / f"{digest[:32]}.cubin"
    try:
        return kept.read_bytes()
    except OSError:
        pass
    program = compiled(nvrtc.nvrtcCreateProgram(source, b"encoder.cu", 1, [header], [b"device.cuh"]))
    try:
        encoded = [option.encode() for option in options]
        code = nvrtc.nvrtcCompileProgram(program, len(encoded), encoded)[0]
        if code != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            said = b" " * compiled(nvrtc.nvrtcGetProgramLogSize(program))
            compiled(nvrtc.nvrtcGetProgramLog(program, said))
            raise BackendError(
                f"the kernels do not compile for compute capability {capability} ({code.name}); they need 8.0 or later:\n"
                + said.decode(errors="replace").strip("\0 \n")
            )
        image: bytes = b" " * compiled(nvrtc.nvrtcGetCUBINSize(program))
        compiled(nvrtc.nvrtcGetCUBIN(program, image))
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    _keep(kept, image)
    return image


def _keep(file: Path, image: bytes) -> None:
    """Write the cache's entry, whole or not at all. One that cannot be written is done without."""
    partial = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(image)
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)
    except OSError:
        pass
