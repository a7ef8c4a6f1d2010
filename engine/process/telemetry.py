"""`telemetry_off`: imports libraries with their telemetry switched off.

ONNX Runtime (from 1.29 on) creates a device id and a database of events in the user's cache and uploads them. When OpenVINO is
imported, it writes a client id into the home directory and sends an event to an analytics host. huggingface_hub and transformers
add details of the installation to their requests. Libraries that the program imported earlier are not changed.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLES = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY")
"""Environment variables that are set to 1 unless they are already set. A user who wants telemetry sets them to 0."""
REPORTER = "openvino_telemetry"
"""Module with which OpenVINO sends its telemetry, if it can import it. OpenVINO has no option to switch that off."""


@contextmanager
def telemetry_off() -> Iterator[None]:
    """Switch telemetry off for the libraries that are imported in the block.

    The environment variables stay set afterwards, since ONNX Runtime reads its own when the first session opens.
    """
    for name in VARIABLES:
        os.environ.setdefault(name, "1")
    absent = object()
    before = sys.modules.get(REPORTER, absent)
    sys.modules[REPORTER] = None  # type: ignore[assignment]  # makes `import` raise ImportError
    try:
        yield
    finally:
        if before is absent:
            del sys.modules[REPORTER]
        else:
            sys.modules[REPORTER] = before  # type: ignore[assignment]
