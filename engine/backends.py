"""The backends crossrt knows, and which of them are installed. Nothing is imported to find out."""

import importlib.metadata
import importlib.util

from .errors import BackendError

BACKENDS = ("onnxruntime", "openvino")
"""Those of a CPU."""
GPU_BACKENDS = ("tensorrt", "onnxruntime")
"""Those of a GPU, the faster first."""
LIBRARIES = ("tensorrt", "tensorrt_rtx")
"""Both are the backend `tensorrt`; the first that is installed builds."""
DISTRIBUTIONS = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "openvino": ("openvino",),
    "tensorrt": ("tensorrt",),
    "tensorrt_rtx": ("tensorrt-rtx",),
}


def installed_backends() -> tuple[str, ...]:
    """Return the backends that can be imported. Raises BackendError when two packages overwrite each other's files."""
    if all(_has_distribution(name) for name in DISTRIBUTIONS["onnxruntime"]):
        raise BackendError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files: "
            'uninstall both, then install one of "crossrt[cpu]" and onnxruntime-gpu'
        )
    return tuple(name for name in BACKENDS if importlib.util.find_spec(name) is not None)


def backend_version(backend: str) -> str:
    """Return the installed version of a backend, or `?`."""
    for name in DISTRIBUTIONS[backend]:
        if _has_distribution(name):
            return importlib.metadata.version(name)
    return "?"


def has_cuda() -> bool:
    """Tell whether the ONNX Runtime that is installed was built for CUDA, and bindings to CUDA are there."""
    bindings = importlib.util.find_spec("cuda") is not None or importlib.util.find_spec("pycuda") is not None
    return bindings and _has_distribution("onnxruntime-gpu")


def _has_distribution(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
