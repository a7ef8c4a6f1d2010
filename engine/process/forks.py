"""Keeps forked processes from hanging on locks and threads of their parent."""

import ctypes
import os
import threading

OPENING = threading.RLock()
"""Lock that is held while a session is opened or closed, and that every fork takes. ONNX Runtime holds an internal lock while it
opens or closes a session. A process forked at that moment would inherit the lock, but not the thread that releases it."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=OPENING.acquire, after_in_parent=OPENING.release, after_in_child=OPENING.release)


def keep_for_ever(inherited: object) -> None:
    """Keep an object inherited from the parent from ever being destroyed in this process.

    ONNX Runtime, OpenVINO and CUDA join threads or call a driver when their objects are destroyed. A forked process does not
    have these threads, so it would wait for ever or crash. A global list is not enough, since Python clears modules when it
    exits. So this adds a reference that is never dropped. The system frees the memory when the process ends.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))


def skip_inherited_exit_handlers() -> None:
    """Make processes that are forked from this one end without the exit handlers and C++ destructors that they inherit.

    Python finalizes as usual and the exit status is kept. Then C's streams are flushed, and the process ends before handlers that
    were registered before the fork. Handlers registered after the fork run. Does nothing where C has no `on_exit`, as on macOS.
    """
    if not hasattr(os, "register_at_fork"):  # Windows has no forks
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "on_exit"):
        return

    def register() -> None:
        # C calls the last handler first. All of these are C functions, since Python is gone by then. A handler of on_exit gets
        # the exit status as its first argument, which is what _exit takes. One of __cxa_atexit gets the argument given here.
        libc.on_exit(libc._exit, None)
        libc.__cxa_atexit(libc.fflush, None, None)

    os.register_at_fork(after_in_child=register)
