"""The native kernels are a backend where the processor has their instructions and they were compiled."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from crossrt.engine.backends.registry import installed_backends
from crossrt.engine.hardware import cpus
from crossrt.engine.hardware.cpus import has_vnni, instructions
from crossrt.engine.kernels import support
from crossrt.engine.kernels.instruction_sets import LIBRARIES, compiler_flags
from crossrt.engine.kernels.support import native_kernels, why_not_native
from crossrt.engine.precision import Precision

AVX512 = "fma avx2 avx512f avx512bw avx512dq avx512vl"
VNNI = f"{AVX512} avx512_vnni"
BF16 = f"{VNNI} avx512_bf16"
PROCESSORS = {
    "an old one": ("flags\t\t: fpu sse4_2", [], False),
    "AVX2": ("flags\t\t: fpu fma avx2 f16c", [], False),
    "AVX2 with VNNI, as Intel's clients": ("flags\t\t: fpu fma avx2 avx_vnni", [], True),
    "VNNI and BF16 without what they extend": ("flags\t\t: fpu avx512_vnni avx512_bf16", [], True),
    "Intel Skylake": (f"model name\t: Intel(R) Xeon(R)\nflags\t\t: fpu {AVX512}\n", ["fp32"], False),
    "Intel Cascade Lake": (f"flags\t\t: fpu {VNNI}\nbugs\t\t: avx512_bf16\n", ["fp32", "int8"], True),
    "AMD Zen 4": (f"model name\t: AMD EPYC 9R14\nflags\t\t: fpu {BF16}\n", ["fp32", "bf16", "int8"], True),
    "Intel with AMX": (
        f"flags\t\t: {BF16} avx_vnni avx512_fp16 amx_bf16 amx_tile amx_int8\n",
        ["fp32", "bf16", "int8"],
        True,
    ),
    "Graviton": ("Features\t: fp asimd asimddp i8mm bf16\nCPU part\t: 0xd40\n", [], False),
    "RISC-V": ("isa\t: rv64imafdcv\n", [], False),
    "no /proc": (None, [], False),
}


@pytest.fixture(params=PROCESSORS)
def computed(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """See another processor, with all kernels compiled; what they should compute on it."""
    described, computed, vnni = PROCESSORS[request.param]
    file = tmp_path / "cpuinfo"
    if described is not None:
        file.write_text(described)
    monkeypatch.setattr(cpus, "CPUINFO", file)
    cpus.processor.cache_clear()
    monkeypatch.setattr(support, "native_library", lambda name: tmp_path / name)
    assert has_vnni() is vnni
    yield computed
    cpus.processor.cache_clear()


def test_the_kernels_compute_what_the_processor_has_all_instructions_for(computed: list[str]) -> None:
    assert [each.value for each in Precision if "native" in installed_backends(each)] == computed
    kernels = native_kernels()
    assert kernels is not None
    assert kernels.name == ("native_avx512_bf16" if "bf16" in computed else "native_avx512")
    for precision in (Precision.FP32, Precision.BF16, Precision.INT8):
        why = why_not_native(precision)
        assert why == "" if precision.value in computed else why.startswith("this processor lacks avx512")


def test_a_compiler_without_bf16_leaves_the_other_precisions(
    computed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(support, "native_library", lambda name: None if "bf16" in name else tmp_path / name)
    assert native_kernels() == tmp_path / "native_avx512"
    assert [each.value for each in Precision if "native" in installed_backends(each)] == [
        each for each in computed if each != "bf16"
    ]
    assert ("compiled without AVX512-BF16" in why_not_native(Precision.BF16)) == ("bf16" in computed)


def test_an_installation_without_a_compiler_has_no_kernels(
    computed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(support, "native_library", lambda name: None)
    assert native_kernels() is None
    assert not [each for each in Precision if "native" in installed_backends(each)]
    for precision in (Precision.FP32, Precision.BF16, Precision.INT8):
        assert "no compiled kernels" in why_not_native(precision)


@pytest.mark.processor
def test_this_processors_own_kernels_are_a_backend() -> None:
    """With the processor as this process sees it, and the libraries that are compiled here."""
    kernels = native_kernels()
    for precision, needed in support.REQUIRED_INSTRUCTIONS.items():
        compiled = kernels is not None and (precision is not Precision.BF16 or "bf16" in kernels.name)
        assert ("native" in installed_backends(precision)) == (compiled and needed <= instructions())


def test_a_library_is_loaded_only_where_everything_that_it_was_compiled_with_runs() -> None:
    required = support.REQUIRED_INSTRUCTIONS
    # `native_kernels` takes the second where BF16 can run, and the first where FP32 can.
    assert required[Precision.FP32] == set(LIBRARIES["native_avx512"])
    assert required[Precision.BF16] == set(LIBRARIES["native_avx512_bf16"])
    assert required[Precision.FP32] < required[Precision.INT8] < required[Precision.BF16]
    assert compiler_flags(("avx512f", "avx512_vnni", "fma")) == ["-mavx512f", "-mavx512vnni", "-mfma"]
