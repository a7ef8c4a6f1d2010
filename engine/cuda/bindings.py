"""`open_cuda`: opens a device through the installed bindings to CUDA, `cuda-bindings` or PyCUDA."""

import importlib.util
from contextlib import suppress

from ..errors import BackendError
from .cuda import Cuda


def installed_bindings() -> str | None:
    """Return the module of the installed bindings, `cuda.bindings` or `pycuda`, or None."""
    for name in ("cuda.bindings", "pycuda"):
        # find_spec raises if another package is called `cuda` and has no module `bindings`.
        with suppress(ModuleNotFoundError):
            if importlib.util.find_spec(name) is not None:
                return name
    return None


def open_cuda(ordinal: int) -> Cuda:
    """Open a device. Raises BackendError, saying what to install, if no bindings are installed."""
    package = installed_bindings()
    if package == "cuda.bindings":
        from .cuda_bindings import CudaBindings

        return CudaBindings(ordinal)
    if package == "pycuda":
        from .pycuda import PyCuda

        return PyCuda(ordinal)
    raise BackendError(
        'a GPU needs cuda-bindings or PyCUDA, and neither is installed: pip install "crossrt[tensorrt]" or "crossrt[pycuda]"'
    )
