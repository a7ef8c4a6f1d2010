"""What makes a process fit to be forked, and what its forks must not touch."""

import ctypes
import os
import threading

OPENING = threading.RLock()
"""Held while a session is opened or closed. A fork waits for it: ONNX Runtime holds a lock of its own meanwhile, which would
stay locked in the fork, since the thread that holds it does not come along."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=OPENING.acquire, after_in_parent=OPENING.release, after_in_child=OPENING.release)


def keep_for_ever(inherited: object) -> None:
    """Keep an object of the parent's from being destroyed in this process, even at its end.

    ONNX Runtime, OpenVINO and CUDA join threads, or call a driver, when what they opened is destroyed. In a forked process
    there are no such threads: it would wait for ever, or crash. A list could not hold the object, since Python empties
    modules when it ends; a reference that nobody owns does. What it takes is freed by the system.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))
