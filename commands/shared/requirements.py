"""Checks that the extras that a command needs are installed."""

import sys
from importlib.util import find_spec

from ...engine.errors import BackendError


def need_export() -> None:
    """Raise BackendError if packages of `crossrt[export]` are missing."""
    from ...engine.bundle.resolve import can_export

    if not can_export():
        raise BackendError('this needs PyTorch and transformers: pip install "crossrt[export]"')


def need_report() -> None:
    """Raise BackendError if packages of `crossrt[report]` are missing."""
    missing = [package for package in ("jinja2", "matplotlib", "pydantic") if find_spec(package) is None]
    if missing:
        raise BackendError(f'this needs {" and ".join(missing)}: pip install "crossrt[report]"')


def need_serve() -> None:
    """Raise BackendError on Windows, and if packages of `crossrt[serve]` are missing."""
    if sys.platform == "win32":
        raise BackendError(
            "crossrt serve does not run on Windows: it reloads and ends by signals that Windows does not have. Run it in WSL or "
            "in a Linux container; deploy/Dockerfile makes one"
        )
    needed = ("msgspec", "uvicorn", "httptools", "starlette", "prometheus_client")
    missing = [package for package in needed if find_spec(package) is None]
    if missing:
        raise BackendError(f'this needs {" and ".join(missing)}: pip install "crossrt[serve]"')


def need_onnx() -> None:
    """Raise BackendError if the package onnx of `crossrt[triton]` is missing."""
    if find_spec("onnx") is None:
        raise BackendError('this needs onnx: pip install "crossrt[triton]"')
