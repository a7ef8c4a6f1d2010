"""The functions of isa.h are right for every kind of processor, and the kernels for aarch64 score as NumPy does.

The kinds for aarch64 run in two ways without such a processor: compiled as C++ for this one, with `emulated/arm_neon.h` in place
of the compiler's own header, and cross-compiled, by QEMU.
"""

import platform
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from crossrt.engine.batching.batch import Batch
from crossrt.engine.bundle.native_weights import NativeModel, write
from crossrt.engine.hardware.cpus import instructions
from crossrt.engine.kernels.encoder import EncoderDims
from crossrt.engine.kernels.instruction_sets import AARCH64, PROCESSOR_KINDS, ProcessorKind
from tests.conftest import REPOSITORY
from tests.engine.backends.native_arithmetic import logits_of
from tests.engine.backends.test_native_cpu import (
    MODERN,
    SHORT_PAIRS,
    a_batch,
    arithmetic_of,
    dims_of,
    pairs_of,
    random_arrays,
)

HERE = Path(__file__).parent
NATIVE = REPOSITORY / "engine/kernels/native"
NEON = {kind.name: kind for kind in PROCESSOR_KINDS if kind.machines == AARCH64}
PRESENT = [
    kind
    for kind in PROCESSOR_KINDS
    if platform.machine() in kind.machines
    and not kind.lacking("int8", instructions())
    and "amx_tile" not in kind.instructions
]
"""The kinds whose instructions this processor has."""
MACROS = {
    "asimd": ["-D__ARM_NEON"],
    "asimddp": ["-D__ARM_FEATURE_DOTPROD"],
    "i8mm": ["-D__ARM_FEATURE_MATMUL_INT8"],
    "bf16": ["-D__ARM_FEATURE_BF16_VECTOR_ARITHMETIC"],
}
"""What a compiler defines where it may use an instruction."""
CPUS = {"neon": "cortex-a72", "neon_dot": "neoverse-n1", "neon_bf16": "max"}
"""QEMU's name of a processor without the instructions of the kinds above."""
COMMON = ["-std=c++20", "-pthread", "-Wall", "-Wextra", "-Wno-uninitialized", "-Wno-maybe-uninitialized", f"-I{NATIVE}"]
CROSS, QEMU = "aarch64-linux-gnu-g++", "qemu-aarch64"

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ here, which compiles the programs")
needs_another_processor = pytest.mark.skipif(platform.machine() in AARCH64, reason="this processor has NEON itself")
needs_emulator = pytest.mark.skipif(
    shutil.which(CROSS) is None or shutil.which(QEMU) is None,
    reason=f"no {CROSS} or no {QEMU} here: install g++-aarch64-linux-gnu and qemu-user",
)


def compiled(words: Iterable[object], source: Path, program: Path) -> Path:
    done = subprocess.run([*map(str, words), str(source), "-o", str(program)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return program


def emulated(kind: ProcessorKind, program: Path, *flags: str, native: Path = NATIVE) -> Path:
    """Compile isa_check.cpp for this processor, with NEON's instructions as plain C++."""
    macros = [macro for name in kind.instructions for macro in MACROS[name]]
    words = ["g++", f"-I{native}", *COMMON, *flags, *macros, f"-I{HERE / 'emulated'}"]
    return compiled(words, HERE / "isa_check.cpp", program)


@needs_compiler
@needs_another_processor
@pytest.mark.parametrize("kind", NEON)
def test_the_functions_for_aarch64_are_right_and_read_nothing_beyond(kind: str, tmp_path: Path) -> None:
    sanitizers = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O0")
    program = emulated(NEON[kind], tmp_path / "check", *sanitizers)
    done = subprocess.run([program], capture_output=True, text=True, env={"ASAN_OPTIONS": "detect_leaks=0"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_emulator
@pytest.mark.parametrize("kind", NEON)
def test_the_functions_for_aarch64_are_right_in_machine_code(kind: str, tmp_path: Path) -> None:
    words = [CROSS, "-static", *COMMON, "-O1", *NEON[kind].compiler_flags]
    program = compiled(words, HERE / "isa_check.cpp", tmp_path / "check")
    done = subprocess.run([QEMU, "-cpu", CPUS[kind], program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@needs_compiler
@pytest.mark.parametrize("kind", PRESENT, ids=lambda kind: kind.name)
def test_the_functions_for_this_processor_are_right(kind: ProcessorKind, tmp_path: Path) -> None:
    program = compiled(["g++", *COMMON, "-O1", *kind.compiler_flags], HERE / "isa_check.cpp", tmp_path / "check")
    done = subprocess.run([program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


FAULTS = [
    (
        "neon",
        "part(0), part(1)), combine(part(2), part(3))",
        "part(0), part(1)), combine(part(2), part(2))",
        "reduce_rows",
    ),
    ("neon", "4 * n < R ?", "4 * n + 4 < R ?", "reduce_rows"),
    ("neon", "before(count - 8)", "before(count - 9)", "first_lanes, select"),
    ("neon", "vbslq_f32, mask, values, others", "vbslq_f32, mask, others, values", "first_lanes, select"),
    ("neon", "fmadd(a, b, of_parts(vnegq_f32, c))", "a * b - c", "fmsub"),
    ("neon", "vreinterpretq_s32_f32(shifted), 23)", "vreinterpretq_s32_f32(shifted), 22)", "shift_exponent"),
    ("neon", "vdupq_n_u32(0x7fff)", "vdupq_n_u32(0x8000)", "store BF16"),
    ("neon", "low = vmaxq_u16(low, bits);", "low = bits;", "extremes"),
    ("neon", "vmaxq_s16(high, vreinterpretq_s16_u16(bits))", "vreinterpretq_s16_u16(bits)", "extremes"),
    ("neon", "lower_halves(odd, odd2), upper", "lower_halves(even, odd2), upper", "transpose"),
    ("neon", "vreinterpretq_s32_f32(values.part[n])", "vreinterpretq_s32_f32(values.part[0])", "bits"),
    ("neon", "{{lower(2), upper(2)", "{{lower(1), upper(2)", "interleave"),
    ("neon", "b)), vmull_high_s8(a, b)", "b)), vmull_s8(vget_low_s8(a), vget_low_s8(b))", "DotInt8"),
    ("neon", "OFFSET = 128", "OFFSET = 127", "OFFSET"),
    ("neon", "vshl_n_s32(activation, 16), vshlq", "activation, vshlq", "DotBf16"),
    (
        "neon",
        "half_of_panel<Dot, R>(row, stride, weights + 64",
        "half_of_panel<Dot, R>(row, stride, weights + 48",
        "DotFp32",
    ),
    ("neon_dot", "vreinterpret_s8_s32(activation), 0);", "vreinterpret_s8_s32(activation), 1);", "DotInt8"),
    ("neon_bf16", "vcvtq_low_bf16_f32(low), high)", "vcvtq_low_bf16_f32(high), low)", "store BF16"),
    ("neon_bf16", "low = vzip1q_s32(first, second)", "low = vzip1q_s32(second, first)", "DotBf16"),
    ("neon_bf16", "    if (steps) add.template operator()<false>();\n", "", "DotBf16"),
    ("neon_bf16", "steps >= 2;", "steps >= 1;", "DotBf16"),
    ("neon_bf16", "r % 2 ? upper_halves", "r % 2 == 0 ? upper_halves", "DotBf16"),
    ("neon_bf16", "2 * pair + 1 < R ? 2 * pair + 1 : 2 * pair", "2 * pair + 1", "heap-buffer-overflow"),
    ("neon_bf16", "second = TWO_STEPS ?", "second = true ?", "heap-buffer-overflow"),
    ("neon_bf16", "load_lanes<TWO_STEPS ? 2 : 1>", "load_lanes<2>", "heap-buffer-overflow"),
]
"""A kind, what is made wrong in isa/neon.h, as a text and what stands in its place, and what the failed check names."""
EVERY = 4
"""The share of the faults that every run tries; `-m slow` tries the others."""


@pytest.mark.parametrize(
    ("kind", "right", "wrong", "found"),
    [pytest.param(*fault, marks=[pytest.mark.slow] if number % EVERY else []) for number, fault in enumerate(FAULTS)],
)
@needs_another_processor
@needs_compiler
def test_a_fault_in_the_functions_for_aarch64_is_found(
    kind: str, right: str, wrong: str, found: str, tmp_path: Path
) -> None:
    sanitizers = ("-fsanitize=address",) if "overflow" in found else ()
    assert found in found_in(NEON[kind], "isa/neon.h", right, wrong, tmp_path, *sanitizers)


def found_in(kind: ProcessorKind, header: str, right: str, wrong: str, folder: Path, *flags: str) -> str:
    """Return what isa_check.cpp says where a text of a header is replaced by a wrong one."""
    shutil.copytree(NATIVE, folder / "native")
    file = folder / "native" / header
    source = file.read_text()
    assert source.count(right) == 1
    file.write_text(source.replace(right, wrong))
    program = emulated(kind, folder / "check", "-O0", *flags, native=folder / "native")
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.returncode != 0
    return done.stdout + done.stderr


FUNCTION_FAULTS = [
    ("minimum(t, broadcast(126))", "t", "GELU with tanh, FP32"),
    ("minimum(x * x, broadcast(1e30f))", "x * x", "SiLU, FP32"),
    ("* 0.044715f}", "* 0.044714f}", "GELU with tanh, FP32"),
    ("-LOG2_E, 0}", "-LOG2_E * 1.0001f, 0}", "SiLU, BF16"),
    ("return maximum(broadcast(0), x);", "return x;", "ReLU, FP32"),
]
"""The same for activation_functions.h."""


@pytest.mark.parametrize(
    ("right", "wrong", "found"),
    [
        pytest.param(*fault, marks=[pytest.mark.slow] if number % EVERY else [])
        for number, fault in enumerate(FUNCTION_FAULTS)
    ],
)
@needs_another_processor
@needs_compiler
def test_a_fault_in_the_activation_functions_is_found(right: str, wrong: str, found: str, tmp_path: Path) -> None:
    assert found in found_in(NEON["neon"], "activation_functions.h", right, wrong, tmp_path)


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that compiles score.cpp for a kind, for its instructions, once."""
    folder = tmp_path_factory.mktemp("scorers")

    def compile_once(kind: str) -> Path:
        program = folder / kind
        if not program.exists():
            source = f'-DSOURCE="{kind}.cpp"'
            flags = ["-O1", "-fno-math-errno", *NEON[kind].compiler_flags]
            compiled([CROSS, "-static", *COMMON, *flags, source], HERE / "score.cpp", program)
        return program

    return compile_once


def scored(program: Path, cpu: str, model: NativeModel, batch: Batch, *, threads: int = 1) -> npt.NDArray[np.float32]:
    pairs = batch.pairs()
    rows = np.arange(len(pairs))
    arrays = (np.array([threads], np.int32), rows, pairs.offsets, pairs.ids, pairs.type_ids, *model.arrays)
    records = [bytes(EncoderDims.of(model.dims)), *(array.tobytes() for array in arrays)]
    content = b"".join(len(record).to_bytes(8, "little") + record for record in records)
    done = subprocess.run([QEMU, "-cpu", cpu, program], input=content, capture_output=True)
    assert done.returncode == 0, done.stderr
    return np.frombuffer(done.stdout, np.float32).reshape(len(rows), -1)


@needs_emulator
@pytest.mark.parametrize(
    ("kind", "precision"),
    [
        pytest.param(kind.name, precision, marks=[pytest.mark.slow] if kind.name != "neon_bf16" else [])
        for kind in NEON.values()
        for precision in kind.precisions
    ],
)
@pytest.mark.parametrize(
    ("fields", "lengths"),
    [
        ({}, [7, 19, 32, 33, 50, 64, 77, 95, 130, 11, 1, 2]),
        ({"hidden_activation": "relu"}, SHORT_PAIRS),
        ({"hidden_activation": "silu"}, SHORT_PAIRS),
        (MODERN, [7, 32, 33, 64, 95, 1, 2]),
        (MODERN | {"hidden_activation": "gelu_tanh"}, SHORT_PAIRS),
    ],
    ids=["bert", "bert, relu", "bert, silu", "modernbert", "modernbert, gelu_tanh"],
)
def test_the_kernels_for_aarch64_score_as_numpy_does(
    kind: str,
    precision: str,
    fields: dict[str, Any],
    lengths: list[int],
    scorer: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    dims = dims_of(**{"hidden": 96, "heads": 3, "intermediate": 128} | fields, precision=precision)
    with (tmp_path / "weights").open("wb") as file:
        write(file, dims, random_arrays(dims))
    model = NativeModel.open(tmp_path / "weights")
    batch = a_batch(lengths, types=dims.types)
    program, cpu = scorer(kind), CPUS[kind]
    found = scored(program, cpu, model, batch)
    expected = logits_of(model, pairs_of(batch), **arithmetic_of(NEON[kind], precision))
    differences = np.abs(found - expected)
    assert np.median(differences) < 1e-4
    assert differences.max() < (1e-5 if precision == "fp32" else 0.1)

    np.testing.assert_array_equal(scored(program, cpu, model, batch, threads=3), found)
    np.testing.assert_array_equal(scored(program, cpu, model, reversed_rows(batch)), found[::-1])


def reversed_rows(batch: Batch) -> Batch:
    fields: dict[str, Any] = {
        name: getattr(batch, name)[::-1] for name in ("input_ids", "attention_mask", "token_type_ids", "rows")
    }
    return Batch(**fields)
