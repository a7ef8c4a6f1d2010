"""The number of usable processors follows the affinity mask and the cgroup quota, and instructions what the processor has."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from crossrt.engine.hardware import cpus
from crossrt.engine.hardware.cpus import instructions, tiles_permitted, usable_cpus
from crossrt.engine.kernels.instruction_sets import KINDS
from crossrt.engine.native_library import native_library


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


@pytest.fixture
def without_cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """See a system without /proc/cpuinfo, as macOS and Windows are."""
    monkeypatch.setattr(cpus, "CPUINFO", tmp_path / "nowhere")
    cpus.processor.cache_clear()
    yield
    cpus.processor.cache_clear()


@pytest.mark.skipif(native_library("native_processor") is None, reason="this installation has no compiled libraries")
@pytest.mark.skipif("flags" not in Path("/proc/cpuinfo").read_text(), reason="it asks x86 processors, on Linux")
def test_without_cpuinfo_the_processor_itself_says_the_same(without_cpuinfo: None) -> None:
    described = Path("/proc/cpuinfo").read_text()  # whatever --processor says: the processor knows nothing of that
    flags = set(next(line for line in described.splitlines() if line.startswith("flags")).split())
    kernels = {
        name for kind in KINDS for needed in ((), *kind.precisions.values()) for name in (*kind.instructions, *needed)
    }
    used = {"avx_vnni", "avx512_vnni", *kernels}  # those of `has_vnni` too
    assert used & instructions() == used & flags
    assert not {name for name in instructions() - flags if name.startswith(("avx", "amx", "f"))}


def test_without_cpuinfo_and_without_the_library_no_instructions_are_known(
    without_cpuinfo: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpus, "native_library", lambda name: None)
    assert not {name for name in instructions() if name.startswith(("avx", "asimd"))}


def test_a_described_processor_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_cpuinfo: None
) -> None:
    (tmp_path / "nowhere").write_text("isa\t: rv64imafdcv\n")
    monkeypatch.setattr(cpus, "native_library", None)  # a call fails
    assert "avx2" not in instructions()
