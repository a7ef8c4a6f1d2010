"""What stands beside every figure: machine, versions, commit."""

import json
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from crossrt.engine.cpus import usable_cpus
from crossrt.export.manifest import tool_versions


def with_facts(result: dict[str, Any]) -> dict[str, Any]:
    """Put machine, versions and commit before a result."""
    return {"machine": machine(), "versions": tool_versions(), "commit": commit()} | result


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write a result as JSON, with machine, versions and commit."""
    path.write_text(json.dumps(with_facts(result), indent=1) + "\n", encoding="utf-8")


def machine() -> dict[str, Any]:
    """Return the processor's name, what it can compute, and how many of it may be used."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text()
    except OSError:
        cpuinfo = ""
    name = re.search(r"model name\s*: (.*)", cpuinfo)
    flags = re.search(r"flags\s*: (.*)", cpuinfo)
    known = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "amx_bf16")
    return {
        "processor": name[1] if name else platform.processor() or platform.machine(),
        "instructions": [flag for flag in known if flags and flag in flags[1].split()],
        "usable_cpus": usable_cpus(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
    }


def commit() -> str:
    """Return the commit of the checkout, with `+` when files differ from it."""
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    found = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    return found.stdout.strip() or "unknown"
