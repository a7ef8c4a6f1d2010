"""The number of usable processors follows the affinity mask and the cgroup quota."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from crossrt.engine.hardware import cpus
from crossrt.engine.hardware.cpus import tiles_permitted, usable_cpus


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "100000 100000\n"}, 1),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "10000 100000\n"}, 1),
        ({"cpu.max": "garbage"}, None),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
    ],
)
def test_a_cgroup_quota_bounds_the_processors(tmp_path: Path, files: dict[str, str], quota: int | None) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    affinity = len(os.sched_getaffinity(0))
    assert usable_cpus(tmp_path) == (affinity if quota is None else min(affinity, quota))


def test_an_affinity_mask_bounds_the_threads(bundle: Path) -> None:
    program = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        f"from crossrt import CrossEncoder; print(CrossEncoder({str(bundle)!r}).threads)"
    )
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert child.stdout.strip() == "1", child.stderr


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("model name : AMD EPYC; flags : fpu avx512f avx512_vnni", True),
        ("flags : fpu avx_vnni; Features : none", True),
        ("model name : Xeon; flags : amx_tile amx_int8; CPU part : 1", True),
        ("model name : avx512_vnnish; flags : fpu avx2", False),
        ("aarch64 ", False),
    ],
)
def test_vnni_is_read_from_what_the_processor_says(said: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpus, "processor", lambda: said)
    assert cpus.has_vnni() is expected


def test_amxs_tiles_are_asked_for_and_a_no_is_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system of a processor without AMX refuses, as an old kernel does; the call itself is made."""
    monkeypatch.setattr(cpus, "processor", lambda: "flags : amx_tile amx_int8")
    tiles_permitted.cache_clear()
    real = "amx_tile" in cpus.cpuinfo().split()
    assert tiles_permitted() in ((True, False) if real else (False,))
    monkeypatch.setattr("platform.system", lambda: "Windows")
    tiles_permitted.cache_clear()
    assert not tiles_permitted()
    tiles_permitted.cache_clear()
