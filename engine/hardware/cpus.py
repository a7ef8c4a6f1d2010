"""The processor of this machine, the number of processors this process may use, and `CORES`, which counts those in use."""

import ctypes
import math
import os
import platform
import re
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from ..errors import BackendError
from ..native_library import load_library, native_library

INTERFACE = 2
"""The version of the library's interface. Increase it here and in native/processor.cpp when the functions' parameters or results
change."""
CPUINFO = Path("/proc/cpuinfo")
"""Linux's description of the processors. Tests set another file to simulate an older processor."""
SYS_ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA = 158, 0x1023, 18
"""Constants of Linux on x86-64, from its headers: a system call, the request to it, and the state of AMX's tile registers."""
X86_64 = ("x86_64", "AMD64")
"""Names of this architecture on Linux, macOS and Windows."""


def usable_cpus(cgroup_root: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the number of processors that this process may use, by affinity mask and cgroup CPU quota (v2 and v1).

    It is at least 1. A quota of 1.5 processors counts as 2, since one thread would leave half a processor unused.
    """
    affinity = _affinity()
    count = (os.cpu_count() or 1) if affinity is None else len(affinity)
    quota = _quota(cgroup_root)
    return max(1, min(count, math.ceil(quota)) if quota else count)


def cpuinfo() -> str:
    """Return Linux's description of the processors; an empty string on other systems."""
    return _text(CPUINFO)


def processor() -> str:
    """Return the processors' names and instructions as one string, which identifies them in cache keys."""
    # The name is not enough: a hypervisor may hide some of a processor's instructions, and an emulator all of them.
    described = dict.fromkeys(f"{name} : {value}" for _, name, value in _described(CPUINFO))
    if not described:
        return " ".join((platform.machine(), platform.processor(), *sorted(instructions())))
    return "; ".join((*described, f"usable : {' '.join(sorted(instructions()))}"))


def instructions() -> frozenset[str]:
    """Return the instruction sets that all processors of this process have, as Linux spells them, such as `avx512_vnni`.

    They are those that both the system's description and the processor itself name. The description is not enough, since under
    an emulator it is the host's. The processor is not enough either: other processors of the machine may differ, and Linux may
    be configured to leave out an instruction set. If only one of the two sources is available, it decides.
    """
    return _known_instructions() or frozenset()


def _known_instructions() -> frozenset[str] | None:
    """Return `instructions`, or None if neither source is available."""
    described, named = _described_instructions(), _named_instructions()
    return named if described is None else described if named is None else described & named


def _described_instructions() -> frozenset[str] | None:
    """Return what /proc/cpuinfo lists for every processor that this thread may run on; None if it lists no instructions."""
    # The field depends on the architecture, since an emulator may show the description of a host with another one.
    field = "flags" if platform.machine() in X86_64 else "Features"
    lines = [(number, value) for number, name, value in _described(CPUINFO) if name == field]
    usable = _affinity()
    # A container may number its processors differently. Then all of them count.
    if usable is not None and usable <= {number for number, _ in lines}:
        lines = [(number, value) for number, value in lines if number in usable]
    sets = [frozenset(value.split()) for value in {value for _, value in lines}]
    return frozenset.intersection(*sets) if sets else None


def _named_instructions() -> frozenset[str] | None:
    """Ask the processor itself (engine/kernels/native/processor.cpp). Returns None in an installation without that library."""
    file = native_library("native_processor")
    library = None if file is None else load_library(file, "crossrt_processor_interface", INTERFACE)
    if library is None:
        return None
    names = ctypes.create_string_buffer(1024)
    library.crossrt_processor_instructions(names, len(names))
    return frozenset(names.value.decode().split())


@cache
def _described(file: Path) -> tuple[tuple[int | None, str, str], ...]:
    """Return the names and instructions in /proc/cpuinfo, as tuples of the processor's number, field and value.

    The file is read once, since Linux needs milliseconds to write it for many processors.
    """
    number = None
    found = []
    for line in _text(file).splitlines():
        name, _, value = line.partition(":")
        name, value = name.strip(), " ".join(value.split())
        if name == "processor" and value.isdecimal():
            number = int(value)
        elif name in ("model name", "flags", "Features", "CPU part"):
            found.append((number, name, value))
    return tuple(found)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""


def _affinity() -> frozenset[int] | None:
    """Return the numbers of the processors that this thread may run on; None on macOS and Windows, which do not tell them."""
    return frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def has_vnni() -> bool:
    """Tell whether the processor has instructions that sum four 8-bit products into 32 bits (VNNI or AMX)."""
    return bool({"avx512_vnni", "avx_vnni", "amx_int8"} & instructions())


def lacks_sse41() -> bool:
    """Tell whether this is x86-64 without SSE4.1, such as QEMU's `qemu64`. OpenVINO needs SSE4.1 and does not check for it."""
    known = _known_instructions()
    return platform.machine() in X86_64 and known is not None and "sse4_1" not in known


def check_numpy() -> None:
    """Raise BackendError if importing NumPy would end the process by an illegal instruction.

    From 2.4 on, NumPy's wheels are compiled for x86-64-v2. NumPy itself refuses older processors with an error message, but it
    uses SSE4.1 before that check.
    """
    if not lacks_sse41():
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        numpy = version("numpy")
    except PackageNotFoundError:
        return
    if tuple(map(int, re.findall(r"\d+", numpy)[:2])) >= (2, 4):
        raise BackendError(
            f"NumPy {numpy} cannot run on this processor, which lacks SSE4.1. Give the virtual machine or the emulator a newer "
            'processor (QEMU: -cpu max), or pip install "numpy<2.4"'
        )


@cache
def tiles_permitted() -> bool:
    """Ask Linux for permission to use AMX's tile registers in this process, and tell whether it is given.

    A process must ask, because the registers add 8 KiB to a thread's state (Linux, Documentation/arch/x86/xstate.rst). The
    request fails on kernels before 5.16, under an emulator, and in a process whose signal stacks are too small. The first tile
    instruction would then end the process.
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
        """Mark all processors as free. A forked process calls this, because it has none of its parent's threads."""
        self._free = self.count
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @property
    def idle(self) -> bool:
        """Whether no thread computes or waits."""
        return self._free == self.count and not self._waiting

    @contextmanager
    def reserved(self, wanted: int) -> Iterator[None]:
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
