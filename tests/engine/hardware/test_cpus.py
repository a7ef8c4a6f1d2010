"""The number of usable processors follows the affinity mask and the cgroup quota, and instructions what the processor has."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from crossrt import CrossEncoder
from crossrt.engine.backends.registry import installed_backends
from crossrt.engine.bundle.bundle import Bundle
from crossrt.engine.errors import BackendError
from crossrt.engine.hardware import cpus
from crossrt.engine.hardware.cpus import check_numpy, instructions, processor, tiles_permitted, usable_cpus
from crossrt.engine.kernels.instruction_sets import PROCESSOR_KINDS
from crossrt.engine.native_library import native_library
from crossrt.engine.selection import select_cpu
from tests import processors
from tests.conftest import REPOSITORY

QEMU, CROSS, QEMU_ARM = "qemu-x86_64", "aarch64-linux-gnu-g++", "qemu-aarch64"
needs_library = pytest.mark.skipif(
    native_library("native_processor") is None, reason="this installation has no compiled libraries"
)
needs_qemu = pytest.mark.skipif(
    shutil.which(QEMU) is None or platform.machine() != "x86_64",
    reason=f"no {QEMU} here (Debian's package qemu-user), or another processor than x86-64",
)


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
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    assert usable_cpus(tmp_path) == (affinity if quota is None else min(affinity, quota))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity masks on this system")
def test_an_affinity_mask_bounds_the_threads(bundle: Path) -> None:
    program = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        f"from crossrt import CrossEncoder; print(CrossEncoder({str(bundle)!r}).threads)"
    )
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert child.stdout.strip() == "1", child.stderr


@pytest.mark.parametrize(
    ("described", "expected"),
    [
        ("model name\t: AMD EPYC\nflags\t\t: fpu avx512f avx512_vnni\n", True),
        ("flags\t\t: fpu avx_vnni\nFeatures\t: none\n", True),
        ("model name\t: Xeon\nflags\t\t: amx_tile amx_int8\nCPU part\t: 1\n", True),
        ("model name\t: avx512_vnni\nflags\t\t: fpu avx2\nbugs\t\t: avx_vnni\n", False),
        (None, False),
    ],
)
def test_vnni_is_read_from_what_the_processor_says(
    described: str | None, expected: bool, describe_processor: Callable[..., None]
) -> None:
    describe_processor(described)
    assert cpus.has_vnni() is expected


def test_amxs_tiles_are_asked_for_and_a_no_is_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system of a processor without AMX refuses, as an old kernel does; the call itself is made."""
    real = "amx_tile" in cpus.cpuinfo().split()
    monkeypatch.setattr(cpus, "instructions", lambda: frozenset({"amx_tile", "amx_int8"}))
    tiles_permitted.cache_clear()
    assert tiles_permitted() in ((True, False) if real else (False,))
    monkeypatch.setattr("platform.system", lambda: "Windows")
    tiles_permitted.cache_clear()
    assert not tiles_permitted()
    tiles_permitted.cache_clear()


# -- what the system describes and what the processor names


def names(monkeypatch: pytest.MonkeyPatch, named: Iterable[str] | None) -> None:
    """Let the processor itself name these instructions; None is an installation that cannot ask it."""
    monkeypatch.setattr(cpus, "_named_instructions", lambda: None if named is None else frozenset(named))


@pytest.mark.parametrize(
    ("described", "named", "both"),
    [
        ("fpu avx2 avx512f", ["avx2", "avx512f", "fma"], ["avx2", "avx512f"]),
        # Linux with clearcpuid=avx512f, on a processor that has it.
        ("fpu avx2", ["avx2", "avx512f"], ["avx2"]),
        # The host's description in an emulator of a lesser processor.
        ("fpu avx2 avx512f", ["avx2"], ["avx2"]),
        ("fpu avx2 avx512f", [], []),
        ("fpu avx2 avx512f", None, ["fpu", "avx2", "avx512f"]),
        (None, ["avx2"], ["avx2"]),
        (None, None, []),
    ],
)
def test_an_instruction_is_used_if_all_say_that_it_is_there(
    described: str | None,
    named: list[str] | None,
    both: list[str],
    describe_processor: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    describe_processor(None if described is None else f"flags\t\t: {described}\n")
    names(monkeypatch, named)
    assert instructions() == {*both}


def test_another_architectures_description_says_nothing(
    describe_processor: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in an emulator of x86-64 on ARM, such as Rosetta in a virtual machine, and the other way round."""
    names(monkeypatch, ["avx2"])
    describe_processor("Features\t: fp asimd\n", "x86_64")
    assert instructions() == {"avx2"}
    names(monkeypatch, ["asimd"])
    describe_processor("flags\t\t: fpu avx2\n", "aarch64")
    assert instructions() == {"asimd"}


HYBRID = "".join(
    f"processor\t: {number}\ncpu family\t: 6\nmodel name\t: Core\nflags\t\t: fpu avx2 {flags}\n\n"
    for number, flags in enumerate(("avx512f fma", "avx512f fma", "avx_vnni fma", "avx_vnni"))
)
"""Processors of three kinds in one machine."""


@pytest.mark.parametrize(
    ("usable", "expected"),
    [
        ({0, 1}, "fpu avx2 avx512f fma"),
        ({2}, "fpu avx2 avx_vnni fma"),
        ({2, 3}, "fpu avx2 avx_vnni"),
        ({1, 2}, "fpu avx2 fma"),
        ({0, 1, 2, 3}, "fpu avx2"),
        ({0, 6}, "fpu avx2"),  # numbered differently, as in a container
        (None, "fpu avx2"),
    ],
)
def test_of_different_processors_those_that_are_usable_count(
    usable: set[int] | None,
    expected: str,
    describe_processor: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    describe_processor(HYBRID)
    if usable is None:
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    else:
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: usable, raising=False)
    assert instructions() == {*expected.split()}


def test_a_caches_key_tells_apart_what_may_be_used(
    describe_processor: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO's compiled models are machine code: an emulator must not load its host's."""
    describe_processor("model name\t: Xeon\nflags\t\t: fpu avx2 avx512f\n")
    keys = []
    for named in (None, ["avx2"], ["avx2", "avx512f"]):
        names(monkeypatch, named)
        keys.append(processor())
    assert len(set(keys)) == 3
    assert all(key.startswith("model name : Xeon; flags : fpu avx2 avx512f; ") for key in keys)


@needs_library
@pytest.mark.skipif(platform.machine() != "x86_64" or not processors.DESCRIBED.exists(), reason="it asks x86, on Linux")
def test_the_processor_itself_says_what_linux_says() -> None:
    flags = processors.flags_of(processors.DESCRIBED.read_text())  # --processor hides nothing from the processor
    kernels = {
        name
        for kind in PROCESSOR_KINDS
        for needed in ((), *kind.precisions.values())
        for name in (*kind.instructions, *needed)
    }
    used = {"avx_vnni", "avx512_vnni", "sse4_1", *kernels}  # those of `has_vnni` and `lacks_sse41` too
    named = cpus._named_instructions()
    assert named is not None
    assert used & named == used & flags
    assert named <= flags


def test_the_processor_is_asked_for_all_that_kernels_need() -> None:
    """An instruction that it is not asked for would never be used."""
    source = (REPOSITORY / "engine/kernels/native/processor.cpp").read_text()
    for kind in PROCESSOR_KINDS:
        for name in (*kind.instructions, *(name for needed in kind.precisions.values() for name in needed)):
            assert f'names.add("{name}", ' in source


# -- old and emulated processors


OLD = "fpu sse sse2 ssse3 sse4_1 sse4_2"
"""A processor without AVX, as Rosetta presents itself before macOS 15."""


def test_without_avx_another_backend_scores_or_words_say_why_none_does(
    demo_bundle: Path, describe_processor: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    if Bundle.open(demo_bundle).manifest.models["fp32"].native_file is None:
        pytest.skip("native kernels do not run here, so the bundle has no weights for them")
    describe_processor(f"flags\t\t: {OLD}\n")
    with CrossEncoder(demo_bundle, device="cpu") as model:
        assert model.backend in ("onnxruntime", "openvino")
    why = "native cannot run here in fp32: this processor lacks avx2, f16c, fma"
    with pytest.raises(BackendError, match=f"^the backend {why}; use another backend"):
        CrossEncoder(demo_bundle, device="cpu", backend="native")
    monkeypatch.setattr(select_cpu, "installed_backends", lambda *_: ())
    with pytest.raises(BackendError, match=rf'or native, which is not installed: pip install "crossrt\[cpu\]"; {why}$'):
        CrossEncoder(demo_bundle, device="cpu")


@pytest.mark.parametrize(("flags", "able"), [(OLD, True), ("fpu sse sse2", False)])
def test_without_sse41_openvino_is_left_alone(
    flags: str, able: bool, bundle: Path, describe_processor: Callable[..., None]
) -> None:
    pytest.importorskip("openvino")
    describe_processor(f"flags\t\t: {flags}\n")
    assert ("openvino" in installed_backends()) is able
    if not able:
        with pytest.raises(
            BackendError, match=r"^the backend openvino cannot run here in fp32: this processor lacks sse4_1"
        ):
            CrossEncoder(bundle, device="cpu", backend="openvino")
    describe_processor(None)
    assert "openvino" in installed_backends(), "where nobody tells the instructions"


@pytest.mark.parametrize(
    ("flags", "version", "refused"),
    [("fpu sse2", "2.4.6", True), ("fpu sse2", "10.0rc1", True), ("fpu sse2", "2.3.5", False), (OLD, "2.4.6", False)],
)
def test_numpy_is_not_imported_where_it_would_crash(
    flags: str,
    version: str,
    refused: bool,
    describe_processor: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    describe_processor(f"flags\t\t: {flags}\n")
    if refused:
        with pytest.raises(BackendError, match=rf"^NumPy {version} cannot run on this processor, .* \"numpy<2.4\"$"):
            check_numpy()
    else:
        check_numpy()
    describe_processor("Features\t: fp asimd\n", "aarch64")
    check_numpy()


def emulated(cpu: str, program: str, *words: object) -> "subprocess.CompletedProcess[str]":
    """Run a program as an emulated processor, which sees the host's /proc/cpuinfo whatever --processor says."""
    environment = {name: value for name, value in os.environ.items() if name != "CROSSRT_TESTS_CPUINFO"}
    command = [QEMU, "-cpu", cpu, sys.executable, "-c", program, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@needs_qemu
@needs_library
@pytest.mark.parametrize(("cpu", "kind"), [("max", "native_avx2"), ("Nehalem", None)])
def test_in_an_emulator_the_kernels_of_its_processor_are_taken(cpu: str, kind: str | None, demo_bundle: Path) -> None:
    """QEMU emulates no AVX512. Nehalem has no AVX either, as Rosetta."""
    program = (
        "import sys\n"
        "from crossrt import CrossEncoder\n"
        "from crossrt.engine.kernels.support import native_kind\n"
        "kind = native_kind()\n"
        "with CrossEncoder(sys.argv[1], device='cpu', threads=1) as model:\n"
        "    print(kind and kind.library, model.backend, float(model.predict(('where', 'berlin is a city'))))\n"
    )
    child = emulated(cpu, program, demo_bundle)
    assert child.returncode == 0, child.stderr
    library, backend, score = child.stdout.split()
    if kind is None or native_library(kind) is not None:
        assert library == str(kind)
        weights = Bundle.open(demo_bundle).manifest.models["fp32"].native_file
        assert (backend == "native") is (kind is not None and weights is not None)
    with CrossEncoder(demo_bundle, device="cpu") as model:
        assert abs(float(score) - float(model.predict(("where", "berlin is a city")))) < 1e-4


@needs_qemu
@needs_library
@pytest.mark.skipif(
    tuple(map(int, importlib.metadata.version("numpy").split(".")[:2])) < (2, 4), reason="NumPy runs on any x86-64"
)
def test_in_an_emulator_of_an_old_processor_words_say_what_is_missing() -> None:
    child = emulated("qemu64", "from crossrt import CrossEncoder")
    assert child.returncode == 1, child.stderr
    assert child.stderr.splitlines()[-1].startswith("crossrt.engine.errors.BackendError: NumPy ")


@pytest.mark.skipif(
    shutil.which(CROSS) is None or shutil.which(QEMU_ARM) is None,
    reason=f"no {CROSS} or no {QEMU_ARM} here: install g++-aarch64-linux-gnu and qemu-user",
)
def test_a_processor_of_arm_names_its_features(tmp_path: Path) -> None:
    """Linux's header has the bits; the emulator sets those of its processors."""
    source = tmp_path / "names.cpp"
    source.write_text(
        "#include <asm/hwcap.h>\n"
        "#include <cstdio>\n"
        "#include <sys/auxv.h>\n"
        "static unsigned long first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);\n"
        "static unsigned long given(unsigned long type) { return type == AT_HWCAP ? first : second; }\n"
        "#define getauxval given\n"
        f'#include "{REPOSITORY / "engine/kernels/native/processor.cpp"}"\n'
        "int main(int count, char**) {\n"
        "    char names[99];\n"
        "    const auto say = [&] { crossrt_processor_instructions(names, 99); std::puts(names); };\n"
        "    if (count == 1) return say(), 0;\n"
        "    first = HWCAP_ASIMD, second = 0, say();\n"
        "    first = HWCAP_ASIMDDP, say();\n"
        "    first = 0, second = HWCAP2_I8MM, say();\n"
        "    second = HWCAP2_BF16, say();\n"
        "}\n"
    )
    program = tmp_path / "names"
    subprocess.run([CROSS, "-static", "-std=c++20", "-Wall", "-Werror", source, "-o", program], check=True)

    def named(cpu: str, *words: str) -> list[str]:
        command = [QEMU_ARM, "-cpu", cpu, program, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()

    assert named("cortex-a72") == ["asimd"]
    assert named("neoverse-n1") == ["asimd asimddp"]
    assert named("max") == ["asimd asimddp i8mm bf16"]
    assert named("max", "one by one") == ["asimd", "asimddp", "i8mm", "bf16"]


# -- other systems


def test_these_tests_are_collected_where_there_is_neither_proc_nor_what_posix_has() -> None:
    """As on macOS and Windows: modules must not read, call or import what is not there when they are imported."""
    program = """
import builtins, io, os, sys
import pytest
def opened(file, *words, real=io.open, **named):
    if isinstance(file, (str, os.PathLike)) and os.fspath(file).startswith("/proc/"):
        raise FileNotFoundError(file)
    return real(file, *words, **named)
io.open = builtins.open = opened
for name in ("fork", "geteuid", "killpg", "mkfifo", "sched_getaffinity", "sched_setaffinity"):
    if hasattr(os, name):
        delattr(os, name)
os.process_cpu_count = os.cpu_count  # from Python 3.13 on, this would call sched_getaffinity
sys.modules.update(dict.fromkeys(("fcntl", "grp", "pty", "pwd", "resource", "termios", "tty")))  # to import one fails
sys.exit(pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider", "tests/engine"]))
"""
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=REPOSITORY)
    assert child.returncode == 0, child.stdout[-3000:]
