"""What a forked process inherits and must not touch."""

import ctypes


def keep_for_ever(inherited: object) -> None:
    """Keep an object of the parent's from being destroyed in this process, even at its end.

    ONNX Runtime, OpenVINO and CUDA join threads, or call a driver, when what they opened is destroyed. In a forked process
    there are no such threads: it would wait for ever, or crash. A list could not hold the object, since Python empties
    modules when it ends; a reference that nobody owns does. What it takes is freed by the system.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))
