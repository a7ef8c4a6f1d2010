"""The tests can run as a lesser processor than the machine has, child processes included."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from crossrt.engine.hardware.cpus import instructions, processor

from . import processors
from .conftest import REPOSITORY

XEON = "fpu sse4_2 avx f16c avx2 fma avx512f avx512cd avx512dq avx512bw avx512vl avx512_vnni"
EPYC = f"{XEON} avx512_bf16 vaes"
AMX = f"{EPYC} avx_vnni avx512_fp16 amx_bf16 amx_tile amx_int8"
CLIENT = "fpu sse4_2 avx f16c avx2 fma avx_vnni vaes"
GRAVITON = "fp asimd evtstrm atomics asimdhp asimdrdm asimddp sve i8mm bf16"
X86 = ["avx2", "avx2_vnni", "avx512", "avx512_vnni", "avx512_bf16", "amx"]


@pytest.mark.parametrize(
    ("described", "kinds"),
    [
        (f"flags\t\t: {XEON}\n", ["generic", "avx2", "avx512", "avx512_vnni"]),
        (f"flags\t\t: {EPYC}\n", ["generic", "avx2", "avx512", "avx512_vnni", "avx512_bf16"]),
        (f"flags\t\t: {AMX}\n", ["generic", *X86]),
        (f"flags\t\t: {CLIENT}\n", ["generic", "avx2", "avx2_vnni"]),
        (f"flags\t\t: {XEON}\nflags\t\t: {CLIENT}\n", ["generic", "avx2"]),
        ("Features\t: fp asimd evtstrm crc32\n", ["generic", "neon"]),
        ("Features\t: fp asimd asimddp\n", ["generic", "neon", "neon_dot"]),
        (f"Features\t: {GRAVITON}\n", ["generic", "neon", "neon_dot", "neon_bf16"]),
        ("", ["generic"]),
    ],
)
def test_a_machine_can_run_as_the_kinds_whose_flags_it_has(
    described: str, kinds: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(described)
    monkeypatch.setattr(processors, "DESCRIBED", file)
    assert processors.executable(processors.flags_of(described)) == kinds
    assert [kind for kind in processors.KINDS if not processors.lacking(kind)] == kinds
    for kind in processors.KINDS:
        if kind not in kinds:
            assert processors.lacking(kind).endswith(f"; it can run as {', '.join(kinds)}")


@pytest.mark.parametrize(
    ("kind", "left"),
    [
        ("generic", "fpu sse4_2"),
        ("avx2", "fpu sse4_2 avx f16c avx2 fma"),
        ("avx2_vnni", "fpu sse4_2 avx f16c avx2 fma avx_vnni"),
        ("avx512_vnni", XEON),
        ("avx512_bf16", f"{XEON} avx512_bf16"),
    ],
)
def test_a_kind_lacks_the_flags_of_those_above_it_and_no_other(kind: str, left: str) -> None:
    described = f"processor\t: 0\nflags\t\t: {AMX}\nbugs\t\t: avx_vnni\n\nprocessor\t: 1\nflags\t\t: {AMX}\n"
    restricted = processors.restricted(described, kind).splitlines()
    flags = [line.partition(":")[2].split() for line in restricted if line.startswith("flags")]
    assert [set(each) for each in flags] == [set(left.split())] * 2
    assert [line for line in restricted if not line.startswith("flags")] == [
        *("processor\t: 0", "bugs\t\t: avx_vnni", "", "processor\t: 1")
    ]


@pytest.mark.parametrize(
    ("kind", "left"),
    [
        ("generic", "fp evtstrm atomics asimdhp asimdrdm"),
        ("neon", "fp asimd evtstrm atomics asimdhp asimdrdm"),
        ("neon_dot", "fp asimd evtstrm atomics asimdhp asimdrdm asimddp"),
        ("neon_bf16", "fp asimd evtstrm atomics asimdhp asimdrdm asimddp i8mm bf16"),
    ],
)
def test_a_kind_of_arm_lacks_the_features_of_those_above_it(
    kind: str, left: str, describe_processor: Callable[..., None]
) -> None:
    described = f"processor\t: 0\nFeatures\t: {GRAVITON}\nCPU part\t: 0xd40\n"
    restricted = processors.restricted(described, kind)
    assert restricted == described.replace(GRAVITON, left)
    describe_processor(restricted, "aarch64")
    assert instructions() == {*left.split()}


@pytest.mark.processor
def test_a_child_process_sees_the_processor_that_the_tests_see() -> None:
    program = "from crossrt.engine.hardware.cpus import processor; print(processor())"
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == processor().strip()


def test_run_as_generic_a_process_and_its_children_see_no_avx(tmp_path: Path) -> None:
    seen = "from crossrt.engine.hardware.cpus import instructions; print(sorted(instructions()))"
    program = (
        "import pathlib, subprocess, sys\n"
        "from tests import processors\n"
        "processors.run_as('generic', pathlib.Path(sys.argv[1]))\n"
        f"{seen}\n"
        f"sys.stdout.flush(); subprocess.run([sys.executable, '-c', {seen!r}], check=True)\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    own, childs = child.stdout.splitlines()
    assert own == childs
    assert "avx" not in own


def test_a_child_process_imports_crossrt_no_sooner_than_its_program_does(tmp_path: Path) -> None:
    program = "import sys; print('sitecustomize' in sys.modules, 'crossrt' in sys.modules)"
    environment = {"PYTHONPATH": str(processors.HOOK), "CROSSRT_TESTS_CPUINFO": str(tmp_path / "cpuinfo")}
    child = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert child.stdout.split() == ["True", "False"], child.stderr
