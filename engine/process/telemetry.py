"""Telemetry of the libraries that crossrt imports, switched off before it imports them.

ONNX Runtime (from 1.29 on) creates a device id and a database of events in the user's cache and uploads them. OpenVINO
writes a client id into the home directory and sends an event to an analytics host when it is imported. huggingface_hub and
transformers add details of the installation to their requests. A library that the program imported before stays as it is.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLES = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY")
"""Set to 1 unless they are set already: a user who wants telemetry sets them to 0."""
REPORTER = "openvino_telemetry"
"""What OpenVINO reports through where it can import it; it has no option for that."""


@contextmanager
def telemetry_off() -> Iterator[None]:
    """Import libraries in this block, and they do not report.

    The environment variables remain set, since ONNX Runtime reads its own as late as when the first session opens.
    """
    for name in VARIABLES:
        os.environ.setdefault(name, "1")
    absent = object()
    before = sys.modules.get(REPORTER, absent)
    sys.modules[REPORTER] = None  # type: ignore[assignment]  # which makes `import` raise ImportError
    try:
        yield
    finally:
        if before is absent:
            del sys.modules[REPORTER]
        else:
            sys.modules[REPORTER] = before  # type: ignore[assignment]
