"""How many processors this process may use."""

import math
import os
from pathlib import Path


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
