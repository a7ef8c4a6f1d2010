"""The machine, the versions and the commit, which every result states."""

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from ..engine.hardware.cpus import cpuinfo, instructions, usable_cpus
from ..export.bundle.manifest import tool_versions

ROOT = Path(__file__).resolve().parent.parent


def machine() -> dict[str, Any]:
    """Return the processor's name and instruction sets, the number of usable CPUs, and, except on Windows, the memory in GB."""
    name = re.search(r"model name\s*: (.*)", cpuinfo())
    present = instructions()
    memory = {}
    if hasattr(os, "sysconf"):  # Windows has none
        memory["memory_gb"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9)
    known = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "amx_bf16")
    return {
        "processor": name[1] if name else platform.processor() or platform.machine(),
        "instructions": [flag for flag in known if flag in present],
        "usable_cpus": usable_cpus(),
        **memory,
    }


def versions(*others: str) -> dict[str, str]:
    """Return the versions of Python, crossrt, the packages that it uses and `others`, if installed."""
    found = tool_versions()
    for package in others:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """Return the commit of the checkout, with `+` if files differ from it. It is `unknown` without a checkout or without git."""
    if not (ROOT / ".git").exists():  # otherwise git would find any repository that contains site-packages
        return "unknown"
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    except FileNotFoundError:
        return "unknown"
    return found.stdout.strip() or "unknown"
