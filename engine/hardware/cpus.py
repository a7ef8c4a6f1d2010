"""What processor this is, how many of it this process may use, and how many are in use: `CORES`."""

import math
import os
import platform
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
"""Where Linux describes the processor. The tests name another file, to see a lesser processor."""


def usable_cpus(cgroup_root: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the processors that the affinity mask and the cgroup CPU quota (v2 and v1) leave to this process.

    At least 1. A quota of 1.5 processors counts as 2: one thread would leave half a processor idle.
    """
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows have no affinity call
        count = os.cpu_count() or 1
    quota = _quota(cgroup_root)
    return max(1, min(count, math.ceil(quota)) if quota else count)


def cpuinfo() -> str:
    """Return the operating system's description of the processors; empty where there is none, as outside Linux."""
    try:
        return CPUINFO.read_text()
    except OSError:
        return ""


@cache
def processor() -> str:
    """Return the processor's name and all that it can do, as text to compare."""
    # The flags too: a hypervisor may hide some of a processor's instructions.
    fields = ("model name", "flags", "Features", "CPU part")
    kept = dict.fromkeys(line for line in cpuinfo().splitlines() if line.startswith(fields))
    if not kept:
        return f"{platform.machine()} {platform.processor()}"
    return "; ".join(" ".join(line.split()) for line in kept)


def instructions() -> frozenset[str]:
    """Return the names of the processor's instruction sets, as Linux spells them, such as `avx512_vnni`."""
    return frozenset(processor().replace(";", " ").split())


def has_vnni() -> bool:
    """Tell whether the processor adds up four 8-bit products at once, in AVX or AMX."""
    return bool({"avx512_vnni", "avx_vnni", "amx_int8"} & instructions())


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
    """Counts processors that compute, so that all models of a process together never start more work than fits.

    Any number of threads may wait; they are served in the order they came, so one that wants all is not passed over.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.free_all()

    def free_all(self) -> None:
        """Forget who computes and who waits, as a forked process must: those threads are its parent's."""
        self._free = self.count
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, wanted: int) -> Iterator[None]:
        """Wait until this many are free, and hold them; more than there are counts as all."""
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
"""The processors of this process."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=CORES.free_all)
