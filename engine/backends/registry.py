"""The backends that crossrt knows, and which of them are installed. `installed_backends` imports none of them."""

import importlib
import importlib.metadata
import importlib.util
import re
from pathlib import Path

from ..bundle.engine_file import LIBRARIES
from ..cuda.bindings import installed_bindings
from ..errors import BackendError
from ..hardware.cpus import lacks_sse41
from ..hardware.gpus import gpus
from ..kernels.support import why_not_native
from ..precision import Precision

ONNX_BACKENDS = ("onnxruntime", "openvino")
BACKENDS = (*ONNX_BACKENDS, "native")
"""Backends on a CPU. `native` is crossrt's own kernels."""
GPU_BACKENDS = ("tensorrt", "native", "onnxruntime")
"""Backends on a GPU, in the order in which `auto` tries them. `native` is crossrt's own kernels."""
DISTRIBUTIONS = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "openvino": ("openvino",),
    "native": ("crossrt",),
    "tensorrt": ("tensorrt",),
    "tensorrt_rtx": ("tensorrt-rtx",),
}
"""Backend -> the distributions that contain it."""
OLDEST = {"onnxruntime": (1, 23), "openvino": (2026, 3)}
"""Backend -> the oldest version that can be used; pyproject.toml asks for the same.

OpenVINO 2026.2 aborts the process when it compiles an MPNet in INT8, and 2025.4 computes BF16 with larger errors. ONNX Runtime
1.20 cannot compute its own fused operators."""


def installed_backends(precision: Precision = Precision.FP32) -> tuple[str, ...]:
    """Return the backends that can run on this machine's CPU; `native` only if its kernels can run in `precision`.

    Raises BackendError if onnxruntime and onnxruntime-gpu are installed in one folder, where they overwrite each other's files.
    """
    # In two folders they do no harm, since Python uses the first one on its path.
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
    found = [name for name in ONNX_BACKENDS if importlib.util.find_spec(name) is not None and not why_unusable(name)]
    return (*found, *([] if why_not_native(precision) else ["native"]))


def backend_version(backend: str) -> str:
    """Return the installed version of a backend, or `?`."""
    for name in DISTRIBUTIONS[backend]:
        if _has_distribution(name):
            return importlib.metadata.version(name)
    # A TensorRT that was copied, or that another package contains, has a module but no distribution. It is imported only
    # if there is a driver: without one it could crash the process.
    if backend in LIBRARIES and gpus() and importlib.util.find_spec(backend) is not None:
        return str(importlib.import_module(backend).__version__)
    return "?"


def why_unusable(backend: str) -> str:
    """Return why ONNX Runtime or OpenVINO cannot be used although it is installed, or an empty string."""
    if backend == "openvino" and lacks_sse41():
        return "this processor lacks sse4_1"
    version = backend_version(backend)
    found = re.match(r"(\d+)\.(\d+)", version)  # no match where it was built from source and has no distribution
    if found is None or tuple(map(int, found.groups())) >= OLDEST[backend]:
        return ""
    names = " or ".join(name for name in DISTRIBUTIONS[backend] if _has_distribution(name))
    oldest = ".".join(map(str, OLDEST[backend]))
    return f"it is version {version}, and crossrt needs {oldest} or later: pip install --upgrade {names}"


def has_cuda() -> bool:
    """Tell whether onnxruntime-gpu and a package of CUDA bindings are installed."""
    return installed_bindings() is not None and _has_distribution("onnxruntime-gpu")


def _has_distribution(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
