"""The backends crossrt knows, and which of them are installed. Nothing is imported to find out."""

import importlib
import importlib.metadata
import importlib.util
import logging
from pathlib import Path

from ..bundle.engine_file import LIBRARIES
from ..cuda.bindings import installed_bindings
from ..errors import BackendError
from ..hardware.cpus import instructions
from ..hardware.gpus import gpus
from ..kernels.library import native_library
from ..precision import Precision

logger = logging.getLogger("crossrt")

ONNX_BACKENDS = ("onnxruntime", "openvino")
BACKENDS = (*ONNX_BACKENDS, "native")
"""Those of a CPU; the last is the native kernels."""
GPU_BACKENDS = ("tensorrt", "native", "onnxruntime")
"""Those of a GPU, in the order in which `auto` tries them; the second is the native kernels."""
DISTRIBUTIONS = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "openvino": ("openvino",),
    "native": ("crossrt",),
    "tensorrt": ("tensorrt",),
    "tensorrt_rtx": ("tensorrt-rtx",),
}
AVX512 = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "fma"})
NATIVE_FLAGS = {
    Precision.FP32: AVX512,
    Precision.INT8: AVX512 | {"avx512_vnni"},
    Precision.BF16: AVX512 | {"avx512_vnni", "avx512_bf16"},
}
"""What a processor must have for the native kernels. Where it has the last there is a library of its own, in which INT8's
attention, which is in BF16, is quicker too."""


def installed_backends(precision: Precision = Precision.FP32) -> tuple[str, ...]:
    """Return the backends that can run here, of which the native kernels may lack the instructions for a precision.

    Raises BackendError when two packages overwrite each other's files.
    """
    # In folders of their own they do not: the first on the path is used, whole.
    folders = [
        Path(str(importlib.metadata.distribution(name).locate_file(""))).resolve()
        for name in DISTRIBUTIONS["onnxruntime"]
        if _has_distribution(name)
    ]
    if len(set(folders)) < len(folders):
        raise BackendError(
            f"onnxruntime and onnxruntime-gpu are both installed in {folders[0]} and overwrite each other's files: "
            'uninstall both, then install one of "crossrt[cpu]" and onnxruntime-gpu'
        )
    found = [name for name in ONNX_BACKENDS if importlib.util.find_spec(name) is not None]
    return (*found, *([] if why_not_native(precision) else ["native"]))


def native_kernels() -> Path | None:
    """Return the compiled kernels for this processor, if this installation has them."""
    found = None if _lacking(Precision.BF16) else native_library("native_avx512_bf16")
    return found or native_library("native_avx512")


def why_not_native(precision: Precision = Precision.FP32) -> str:
    """Say why the native kernels cannot run here in a precision; empty when they can."""
    if precision not in NATIVE_FLAGS:
        return f"they compute in {precision.value} on GPUs alone"
    if native_kernels() is None:
        return (
            "this installation has no compiled kernels: install crossrt again on x86-64, where there is a C++ compiler"
        )
    lacking = _lacking(precision)
    if not lacking and precision is Precision.BF16 and native_library("native_avx512_bf16") is None:
        return (
            "this installation's kernels were compiled without AVX512-BF16: install crossrt again, with GCC 11 or later"
        )
    return f"this processor lacks {', '.join(lacking)}" if lacking else ""


def _lacking(precision: Precision) -> list[str]:
    return sorted(NATIVE_FLAGS[precision] - instructions())


def backend_version(backend: str) -> str:
    """Return the installed version of a backend, or `?`."""
    for name in DISTRIBUTIONS[backend]:
        if _has_distribution(name):
            return importlib.metadata.version(name)
    # A TensorRT that was copied, or came in another package, is known by its module alone. Without a driver it is not asked:
    # it could take the process down.
    if backend in LIBRARIES and gpus() and importlib.util.find_spec(backend) is not None:
        return str(importlib.import_module(backend).__version__)
    return "?"


def has_cuda() -> bool:
    """Tell whether the ONNX Runtime that is installed was built for CUDA, and bindings to CUDA are there."""
    return installed_bindings() is not None and _has_distribution("onnxruntime-gpu")


def _has_distribution(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
