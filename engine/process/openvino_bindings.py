"""`openvino`: the package, imported without telemetry, and ready to be called by several threads."""

import os

import numpy as np

from .forks import skip_inherited_exit_handlers
from .telemetry import telemetry_off

with telemetry_off():
    import openvino

__all__ = ["PROCESS", "openvino"]

PROCESS = os.getpid()
"""Id of the process that loaded OpenVINO. A process forked from it cannot use OpenVINO: a fork may inherit a lock of TBB,
OpenVINO's threading library, that no thread will ever release. Of 200 forks while other threads opened models and computed, one
hung at such a lock."""

# The first array that OpenVINO's Python bindings convert fills their tables of types. If two threads do this at the same time,
# they can deadlock: one waits for the GIL while it fills a table, and the other holds the GIL while it waits for that table.
# This happened in OpenVINO 2026.4, in four of twelve processes that test_openvino_bindings.py starts. Converting an array here
# avoids it, since only one thread imports a module.
openvino.Tensor(np.zeros(1, dtype=np.int64), shared_memory=True).data  # noqa: B018

# TBB's destructors take locks as well. Of about 2,800 forks that ended with sys.exit, one hung as it ended.
skip_inherited_exit_handlers()
