"""The native kernels are a backend where the processor has their instructions and they were compiled."""

import platform
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import tomllib

from crossrt import CrossEncoder
from crossrt.engine.backends import registry
from crossrt.engine.backends.registry import installed_backends
from crossrt.engine.errors import BackendError, OptionError
from crossrt.engine.hardware.cpus import has_vnni, instructions
from crossrt.engine.kernels import support
from crossrt.engine.kernels.instruction_sets import AARCH64, PROCESSOR_KINDS
from crossrt.engine.kernels.support import native_kernels, native_kind, only_kinds, why_not_native
from crossrt.engine.native_library import native_library
from crossrt.engine.precision import Precision
from tests.conftest import REPOSITORY

AVX2 = "fma avx2 f16c"
AVX512 = f"{AVX2} avx512f avx512bw avx512dq avx512vl"
VNNI = f"{AVX512} avx512_vnni"
BF16 = f"{VNNI} avx512_bf16"
OF_AVX2 = {"fp32": "avx2", "int8": "avx2"}
OF_AVX2_VNNI = {"fp32": "avx2_vnni", "int8": "avx2_vnni"}
OF_BF16 = {"fp32": "avx512_bf16", "bf16": "avx512_bf16", "int8": "avx512_bf16"}
PROCESSORS = {
    "an old one": ("flags\t\t: fpu sse4_2", {}, False),
    "AVX2 without FMA": ("flags\t\t: fpu avx2 f16c", {}, False),
    "AVX2": (f"flags\t\t: fpu {AVX2}", OF_AVX2, False),
    "AVX2 with VNNI, as Intel's clients": (f"flags\t\t: fpu {AVX2} avx_vnni", OF_AVX2_VNNI, True),
    "VNNI and BF16 without what they extend": ("flags\t\t: fpu avx512_vnni avx512_bf16", {}, True),
    # Its AVX512 has no 8-bit products, so the library for AVX2 computes INT8.
    "Intel Skylake": (
        f"model name\t: Intel(R) Xeon(R)\nflags\t\t: fpu {AVX512}\n",
        {"fp32": "avx512", "int8": "avx2"},
        False,
    ),
    "Intel Cascade Lake": (
        f"flags\t\t: fpu {VNNI}\nbugs\t\t: avx512_bf16\n",
        {"fp32": "avx512", "int8": "avx512"},
        True,
    ),
    "AMD Zen 4": (f"model name\t: AMD EPYC 9R14\nflags\t\t: fpu {BF16}\n", OF_BF16, True),
    # Its kernels are emulated in tests and not taken by themselves.
    "Intel with AMX": (f"flags\t\t: {BF16} avx_vnni avx512_fp16 amx_bf16 amx_tile amx_int8\n", OF_BF16, True),
    "RISC-V": ("isa\t: rv64imafdcv\n", {}, False),
    "no /proc": (None, {}, False),
}
"""What Linux says of a processor, the kind of kernels for each precision, and whether it has VNNI."""

SPELLED = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
COMPUTED_BY_SOME = [Precision.FP32, Precision.BF16, Precision.INT8]


@pytest.fixture(params=PROCESSORS)
def kinds(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    describe_processor: Callable[..., None],
) -> dict[str, str]:
    """See another processor, with all kernels compiled; the kind that should compute each precision on it."""
    described, kinds, vnni = PROCESSORS[request.param]
    describe_processor(described)
    monkeypatch.setattr(support, "native_library", lambda name: tmp_path / name)
    monkeypatch.setattr(support, "check_library", lambda file, precision: None)  # these files are not there
    assert has_vnni() is vnni
    return kinds


def test_a_precision_is_computed_by_the_best_kind_whose_instructions_the_processor_has(
    kinds: dict[str, str], tmp_path: Path
) -> None:
    assert {each.value for each in Precision if "native" in installed_backends(each)} == set(kinds)
    for precision in COMPUTED_BY_SOME:
        why = why_not_native(precision)
        if precision.value in kinds:
            assert native_kernels(precision) == tmp_path / f"native_{kinds[precision.value]}"
            assert why == ""
        else:
            assert native_kernels(precision) is None
            assert why.startswith("this processor lacks ")


def test_a_compiler_without_bf16_leaves_the_other_precisions(
    kinds: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(support, "native_library", lambda name: None if "bf16" in name else tmp_path / name)
    assert {each.value for each in Precision if "native" in installed_backends(each)} == set(kinds) - {"bf16"}
    assert "compiled without avx512_bf16" in why_not_native(Precision.BF16)
    if "bf16" in kinds:
        assert native_kernels(Precision.INT8) == tmp_path / "native_avx512"


def test_an_installation_without_a_compiler_has_no_kernels(
    kinds: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(support, "native_library", lambda name: None)
    assert not [each for each in Precision if "native" in installed_backends(each)]
    for precision in COMPUTED_BY_SOME:
        assert native_kernels(precision) is None
        assert "no compiled kernels" in why_not_native(precision)


def test_on_another_architecture_no_library_of_x86_is_loaded(
    kinds: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its flags are called, as under an emulator that shows those of its host."""
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    for precision in COMPUTED_BY_SOME:
        assert native_kernels(precision) is None
        assert f"computes in {precision.value} on riscv64" in why_not_native(precision)


@pytest.mark.processor
def test_this_processors_own_kernels_are_a_backend() -> None:
    """With the processor as this process sees it, and the libraries that are compiled here."""
    for precision in COMPUTED_BY_SOME:
        able = [
            kind
            for kind in PROCESSOR_KINDS
            if kind.tried
            and platform.machine() in kind.machines
            and precision.value in kind.precisions
            and native_library(kind.library)
            and {*kind.instructions, *kind.precisions[precision.value]} <= instructions()
        ]
        assert ("native" in installed_backends(precision)) == bool(able)
        assert native_kind(precision) == (able[0] if able else None)


FEATURES = "fp asimd evtstrm aes crc32 atomics fphp asimdhp cpuid asimdrdm"
ARM_PROCESSORS = {
    "Raspberry Pi 4": ("fp asimd evtstrm crc32 cpuid", {"fp32": "neon", "int8": "neon"}),
    "Graviton 2": (f"{FEATURES} asimddp", {"fp32": "neon_dot", "int8": "neon_dot"}),
    "Graviton 3": (
        f"{FEATURES} asimddp sve i8mm bf16",
        {"fp32": "neon_bf16", "int8": "neon_bf16", "bf16": "neon_bf16"},
    ),
}
"""The features that Linux names, and the kind of kernels for each precision."""


@pytest.mark.parametrize("name", ARM_PROCESSORS)
@pytest.mark.parametrize("machine", ["aarch64", "arm64"])
def test_an_arm_processor_computes_by_the_best_kind_whose_instructions_it_has(
    machine: str,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    describe_processor: Callable[..., None],
) -> None:
    features, kinds = ARM_PROCESSORS[name]
    describe_processor(f"processor\t: 0\nFeatures\t: {features}\nCPU part\t: 0xd40\n", machine)
    monkeypatch.setattr(support, "native_library", lambda name: tmp_path / name)
    monkeypatch.setattr(support, "check_library", lambda file, precision: None)  # these files are not there
    for precision in COMPUTED_BY_SOME:
        found = native_kind(precision)
        assert (found and found.name) == kinds.get(precision.value)
        if found is None:
            assert why_not_native(precision).startswith("this processor lacks ")


def test_each_kind_is_compiled_with_the_instructions_that_it_is_loaded_for() -> None:
    for kind in PROCESSOR_KINDS:
        assert (REPOSITORY / kind.source).is_file()
        first, *flags = kind.compiler_flags
        if kind.machines == AARCH64:
            baseline, *extensions = first.split("+")
            assert (baseline, flags) == (f"-march={kind.baseline}", [])
            names = {"simd": "asimd", "dotprod": "asimddp"}  # Linux's name of a compiler's extension
            assert [names.get(extension, extension) for extension in extensions] == [*kind.instructions]
        else:
            assert first == "-march=x86-64"
            names_in_flags = [flag.replace("-", "").removeprefix("m") for flag in flags]
            assert names_in_flags == [name.replace("_", "") for name in kind.instructions]
        assert kind.lacking("fp32", set(kind.instructions)) == ()
        assert kind.lacking("fp32", set()) == kind.instructions


def test_only_some_kinds_can_be_chosen_from(kinds: dict[str, str]) -> None:
    with only_kinds("avx2"):
        assert native_kind(Precision.BF16) is None
        found = native_kind(Precision.FP32)
        assert (found and found.name) == ("avx2" if kinds else None)
    with only_kinds():
        assert native_kind(Precision.FP32) is None
        assert why_not_native(Precision.FP32) != ""
    assert (native_kind(Precision.FP32) is not None) == bool(kinds)


def test_an_environment_variable_names_the_kinds_to_choose_from(
    kinds: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSRT_KERNELS", "avx2, avx512")
    found = native_kind(Precision.FP32)
    assert (found and found.name) == {"avx512_bf16": "avx512", "avx2_vnni": "avx2"}.get(
        kinds.get("fp32", ""), kinds.get("fp32")
    )
    monkeypatch.setenv("CROSSRT_KERNELS", "avx3")
    with pytest.raises(OptionError, match="CROSSRT_KERNELS='avx3' names kinds that there are not; the kinds are amx, "):
        native_kind(Precision.FP32)


@pytest.mark.parametrize("permitted", [True, False])
def test_amx_is_taken_where_it_is_named_and_the_system_permits_it(
    kinds: dict[str, str], permitted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(support, "tiles_permitted", lambda: permitted)
    monkeypatch.setenv("CROSSRT_KERNELS", "amx,avx512_bf16,avx2")
    found = native_kind(Precision.INT8)
    has_amx = "amx_int8" in instructions()
    assert (found is not None and found.name == "amx") == (has_amx and permitted)
    if has_amx and not permitted:
        assert found is not None
        assert found.name == "avx512_bf16"
        monkeypatch.setenv("CROSSRT_KERNELS", "amx")
        assert why_not_native(Precision.INT8) == (
            "this processor lacks the operating system's permission to use AMX's tiles"
        )


@pytest.mark.parametrize(
    ("version", "usable"),
    [
        ("2026.2.1", False),
        ("2025.4", False),
        ("2026.3.0", True),
        ("2027.0.0rc1", True),
        ("2026.10.0", True),
        ("?", True),
    ],
)
def test_an_older_runtime_than_was_tried_is_no_backend(
    version: str, usable: bool, monkeypatch: pytest.MonkeyPatch, bundle: Path
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(registry, "backend_version", lambda name: version if name == "openvino" else "?")
    assert ("openvino" in installed_backends()) is usable
    if not usable:
        message = f"openvino cannot run here in fp32: it is version {re.escape(version)}, and crossrt needs 2026.3 or later: pip"
        with pytest.raises(BackendError, match=message):
            CrossEncoder(bundle, backend="openvino", device="cpu")


def test_the_oldest_versions_are_those_that_the_extras_ask_for_and_the_documents_name() -> None:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
    asked = {requirement for extra in ("cpu", "export", "cuda") for requirement in extras[extra]}
    started = " ".join((REPOSITORY / "docs/getting-started.md").read_text(encoding="utf-8").split())
    for name, spelled in {"torch": "PyTorch", "transformers": "transformers"}.items():
        [oldest] = re.findall(rf"{name}>=([\d.]+)", " ".join(extras["export"]))
        assert f"{spelled} {oldest} " in started
    for backend, numbers in registry.OLDEST.items():
        oldest = ".".join(map(str, numbers))
        named = {re.sub(r"\[.*\]", "", each) for each in asked if each.startswith((f"{backend}>", f"{backend}-gpu"))}
        assert named
        assert all(each.endswith(f">={oldest}") for each in named)
        assert f"{SPELLED[backend]} from {oldest} on" in started
