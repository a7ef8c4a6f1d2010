"""The processor of this machine, the number of processors this process may use, and `CORES`, which counts those in use."""

import ctypes
import math
import os
import platform
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from ..native_library import load_library, native_library

INTERFACE = 1
"""The version of the library's functions. Raised with each change of what they take, here and in native/processor.cpp."""
CPUINFO = Path("/proc/cpuinfo")
"""Linux's description of the processor. Tests set another file to simulate an older processor."""
SYS_ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA = 158, 0x1023, 18
"""Numbers of Linux's on x86-64, from its headers: a system call, what it is asked, and the state of AMX's tile registers."""


def usable_cpus(cgroup_root: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the number of processors that this process may use, by affinity mask and cgroup CPU quota (v2 and v1).

    It is at least 1. A quota of 1.5 processors counts as 2, since one thread would leave half a processor unused.
    """
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows have no affinity call
        count = os.cpu_count() or 1
    quota = _quota(cgroup_root)
    return max(1, min(count, math.ceil(quota)) if quota else count)


def cpuinfo() -> str:
    """Return Linux's description of the processors; an empty text on other systems."""
    try:
        return CPUINFO.read_text()
    except OSError:
        return ""


@cache
def processor() -> str:
    """Return the processor's name and flags as one text, which identifies it in keys of caches."""
    # The name is not enough: a hypervisor may hide some of a processor's instructions.
    fields = ("model name", "flags", "Features", "CPU part")
    described = cpuinfo()
    kept = dict.fromkeys(line for line in described.splitlines() if line.startswith(fields))
    if not kept:
        return f"{platform.machine()} {platform.processor()} {'' if described else _asked_instructions()}"
    return "; ".join(" ".join(line.split()) for line in kept)


def instructions() -> frozenset[str]:
    """Return the names of the processor's instruction sets, as Linux spells them, such as `avx512_vnni`."""
    return frozenset(processor().replace(";", " ").split())


def _asked_instructions() -> str:
    """Ask the processor itself (engine/kernels/native/processor.cpp), where no file describes it: on macOS and Windows."""
    file = native_library("native_processor")
    library = None if file is None else load_library(file, "crossrt_processor_interface", INTERFACE)
    if library is None:
        return ""
    names = ctypes.create_string_buffer(1024)
    library.crossrt_processor_instructions(names, len(names))
    return names.value.decode()


def has_vnni() -> bool:
    """Tell whether the processor has instructions that sum four 8-bit products into 32 bits (VNNI or AMX)."""
    return bool({"avx512_vnni", "avx_vnni", "amx_int8"} & instructions())


@cache
def tiles_permitted() -> bool:
    """Ask Linux for permission to use AMX's tile registers in this process, and tell whether it is given.

    A thread's state grows by 8 KiB with them, so a process must ask (Linux, Documentation/arch/x86/xstate.rst). A kernel before
    5.16, an emulator, and a process whose signal stacks are too small are refused; the first tile instruction would then end the
    process.
    """
    if platform.system() != "Linux" or platform.machine() != "x86_64" or "amx_tile" not in instructions():
        return False
    try:
        call = ctypes.CDLL(None).syscall
    except (OSError, AttributeError):
        return False
    numbers = (SYS_ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)
    return int(call(*map(ctypes.c_long, numbers))) == 0


def _quota(root: Path) -> float | None:
    try:
        fields = (root / "cpu.max").read_text().split()
        return None if fields[0] == "max" else int(fields[0]) / int(fields[1])
    except (OSError, ValueError, IndexError):
        pass
    try:
        quota = int((root / "cpu/cpu.cfs_quota_us").read_text())
        period = int((root / "cpu/cpu.cfs_period_us").read_text())
        return quota / period if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


class Cores:
    """Counts the processors in use, so that the models of a process together never use more processors than there are.

    Any number of threads may wait. They are served in order of arrival, so a thread that wants all processors is not overtaken
    for ever by threads that want one.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.free_all()

    def free_all(self) -> None:
        """Mark all processors as free. A forked process calls it: the threads that computed or waited are its parent's."""
        self._free = self.count
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @property
    def idle(self) -> bool:
        """Whether no thread computes or waits."""
        return self._free == self.count and not self._waiting

    @contextmanager
    def taken(self, wanted: int) -> Iterator[None]:
        """Wait until `wanted` processors are free, at most all, and hold them during the block."""
        wanted = min(wanted, self.count)
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                self._changed.wait_for(lambda: self._waiting[0] is ticket and self._free >= wanted)
                self._free -= wanted
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._free += wanted
                self._changed.notify_all()


CORES = Cores(usable_cpus())
"""The processors that this process may use."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=CORES.free_all)
