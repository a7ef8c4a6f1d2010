"""Matrix products of every kind of processor equal NumPy's; kinds without their hardware are emulated.

The products are compiled for each kind by themselves, which takes seconds. AMX's instructions are functions in plain C++
(emulated_tiles.h), so its source runs on every processor with AVX512-BF16. So is AVX-VNNI's one instruction (emulated_vnni.h);
its source runs on every processor with AVX2. Sources that were made wrong on purpose must fail.
"""

import ctypes
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from crossrt.engine.hardware.cpus import instructions
from crossrt.engine.kernels.instruction_sets import PROCESSOR_KINDS, ProcessorKind
from tests.conftest import REPOSITORY

NATIVE = REPOSITORY / "engine/kernels/native"
HERE = Path(__file__).parent
EMULATED = {"amx": ("amx", "emulated_tiles.h"), "avx2_vnni": ("avxvnni", "emulated_vnni.h")}
"""By kind: what the compiler's flags for its own instructions begin with, and the header that has these as functions."""
PANEL = 32

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ here, which compiles the products")


@dataclass(frozen=True, slots=True)
class Products:
    """The compiled products of a kind."""

    library: ctypes.CDLL

    def __call__(self, name: str, rows: npt.NDArray[Any], weight: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return rows [count, in] times weight [out, in], by the function `product_NAME`."""
        (count, inputs), outputs = rows.shape, len(weight)
        per_word = 4 // weight.itemsize
        panels = weight.reshape(outputs // PANEL, PANEL, inputs // per_word, per_word).swapaxes(1, 2)
        # Guards around the operands: beyond the rows and between them all bits are 1, which is NaN.
        stride = inputs + 64 // rows.itemsize
        beyond = self.library.rows_read_beyond()
        held = np.full((count + beyond, stride * rows.itemsize), 0xFF, dtype=np.uint8).view(rows.dtype)
        held[:count, :inputs] = rows
        packed = aligned(panels)
        sums = np.zeros((count, outputs), dtype=np.int32 if name == "int8" else np.float32)
        getattr(self.library, f"product_{name}")(
            *(ctypes.c_void_p(packed.ctypes.data), inputs, outputs),
            *(ctypes.c_void_p(held.ctypes.data), ctypes.c_int64(stride), count, ctypes.c_void_p(sums.ctypes.data)),
        )
        return sums


def aligned(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a copy at a multiple of 64 bytes, as the panels of a file are."""
    memory = np.empty(values.nbytes + 64, dtype=np.uint8)
    begin = -memory.ctypes.data % 64
    copy = memory[begin : begin + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy


def compiled(kind: ProcessorKind, folder: Path, sources: Path = NATIVE) -> Products:
    """Compile the products of a kind, emulated where it must be."""
    flags = [*kind.compiler_flags]
    if kind.name in EMULATED:
        own, header = EMULATED[kind.name]
        flags = [flag for flag in flags if not flag.startswith(f"-m{own}")] + ["-include", str(HERE / header)]
    library = folder / f"{kind.name}.so"
    subprocess.run(
        ["g++", "-std=c++20", "-O1", "-shared", "-fPIC", *flags, f"-I{sources}", HERE / "products.cpp", "-o", library],
        check=True,
    )
    return Products(ctypes.CDLL(str(library)))


def why_not(kind: ProcessorKind) -> str:
    """Say what this processor lacks to run the products of a kind, emulated or not."""
    needed = [*kind.instructions, *kind.precisions["int8"]]
    own = EMULATED[kind.name][0] if kind.name in EMULATED else None
    lacking = [
        name
        for name in needed
        if name not in instructions() and (own is None or not name.replace("_", "").startswith(own))
    ]
    return f"this processor lacks {', '.join(lacking)}" if lacking else ""


@pytest.fixture(scope="module", params=PROCESSOR_KINDS, ids=lambda kind: kind.name)
def products(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Products:
    """The products of each kind that can run here."""
    if why := why_not(request.param):
        pytest.skip(why)
    return compiled(request.param, tmp_path_factory.mktemp("products"))


SHAPES = [
    *((count, 64, 32) for count in (1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 15, 16, 17, 31, 32, 33, 48, 50, 64, 65)),
    *((17, inputs, 64) for inputs in (32, 96, 128, 160, 320, 384, 416)),
    (37, 1536, 32),
    (3, 32, 320),
]
"""Rows, input and output channels: heights around each kind's tiles, and inputs around the 16 words of AMX's."""
ODD_SHAPES = [(40, 2, 32), (5, 34, 32), (32, 118, 32), (17, 90, 64)]
"""Further shapes in BF16, where attention multiplies with as many values as there are tokens."""


def check_int8(products: Products, shape: tuple[int, int, int]) -> None:
    """The sums are exact, at the extremes too."""
    count, inputs, outputs = shape
    rng = np.random.default_rng(inputs + count)
    most = products.library.most_of_an_activation()
    rows = rng.integers(0, most + 1, (count, inputs), dtype=np.uint8)
    weight = rng.integers(-127, 128, (outputs, inputs), dtype=np.int8)
    rows[0], weight[0], weight[1] = most, 127, -127  # the largest sums of either sign
    stored = rows.astype(np.int64) - products.library.offset_of_activations()
    expected = stored @ weight.T.astype(np.int64)
    np.testing.assert_array_equal(products("int8", stored.astype(np.uint8), weight), expected)


def check_bf16(products: Products, shape: tuple[int, int, int]) -> None:
    """Sums of whole numbers are exact in any order."""
    count, inputs, outputs = shape
    rng = np.random.default_rng(inputs + count)
    rows, weight = (rng.integers(-8, 9, (n, inputs)).astype(np.float32) for n in (count, outputs))
    bits = [(values.view(np.uint32) >> 16).astype(np.uint16) for values in (rows, weight)]
    np.testing.assert_array_equal(products("bf16", *bits), rows @ weight.T)


def check_fp32(products: Products, shape: tuple[int, int, int]) -> None:
    """Sums of whole numbers are exact in any order."""
    count, inputs, outputs = shape
    rng = np.random.default_rng(inputs + count)
    rows, weight = (rng.integers(-100, 101, (n, inputs)).astype(np.float32) for n in (count, outputs))
    np.testing.assert_array_equal(products("fp32", rows, weight), rows @ weight.T)


def shapes_of(precision: str) -> list[tuple[int, int, int]]:
    """The shapes of products in a precision."""
    return [*SHAPES, *ODD_SHAPES] if precision == "bf16" else SHAPES


CHECKS: dict[str, Callable[[Products, tuple[int, int, int]], None]] = {
    "int8": check_int8,
    "bf16": check_bf16,
    "fp32": check_fp32,
}


@pytest.mark.parametrize("precision", CHECKS)
def test_products_equal_numpys(products: Products, precision: str) -> None:
    for shape in shapes_of(precision):
        CHECKS[precision](products, shape)


MUTANTS = {
    "amx": {
        "the upper half of a panel": ("weights + OF_PANEL / 2", "weights + OF_PANEL / 4"),
        "the second tile of rows": ("activations + 16 * stride", "activations + 15 * stride"),
        "where two tiles begin": ("height > STEPS", "height > STEPS + 1"),
        "the steps after the last tile": ("const int rest = steps - step", "const int rest = 0"),
        "what is beyond the last step": ("4 * step, 4 * rest", "4 * step, BYTES"),
        "the rows of the configuration": ("config.rows[tile] = 16", "config.rows[tile] = 15"),
        "sums that remain": ("tile_zero<2>(), tile_zero<3>()", "tile_zero<2>()"),
        "where sums go": ("tile_store<3>(sums[16] + LANES", "tile_store<3>(sums[16]"),
    },
    "avx2_vnni": {
        "activations and weights": (
            "dot_of_bytes(sum, activation, weight); }",
            "dot_of_bytes(sum, weight, activation); }",
        ),
    },
    "avx2": {
        "a bit more than fits into 16 bits": ("MAX_ACTIVATION = 129", "MAX_ACTIVATION = 130"),
        "the second half of a panel": ("weights + 2, steps, high", "weights + 1, steps, high"),
        "the next step of a panel": ("weights += 4, row += 4", "weights += 4, row += 8"),
        "the upper BF16 of a word": ("_mm256_and_si256(activation, upper)", "_mm256_slli_epi32(activation, 16)"),
    },
}
"""By kind: what is made wrong in its file, as a text and what stands in its place."""
EVERY = 3
"""The share of the mutants that every run tries; `-m slow` tries the others."""


@pytest.mark.parametrize(
    ("name", "mutant"),
    [
        pytest.param(name, mutant, marks=[pytest.mark.slow] if number % EVERY else [])
        for name in MUTANTS
        for number, mutant in enumerate(MUTANTS[name])
    ],
)
def test_a_wrong_product_is_noticed(name: str, mutant: str, tmp_path: Path) -> None:
    kind = next(kind for kind in PROCESSOR_KINDS if kind.name == name)
    if why := why_not(kind):
        pytest.skip(why)
    sources = tmp_path / "native"
    shutil.copytree(NATIVE, sources)
    file = sources / f"isa/{name.removesuffix('_vnni')}.h"
    text, (right, wrong) = file.read_text(encoding="utf-8"), MUTANTS[name][mutant]
    assert text.count(right) >= 1
    file.write_text(text.replace(right, wrong), encoding="utf-8")
    # In a process of its own: the emulated instructions abort it where the processor would fault.
    program = f"from tests.engine.kernels.test_products import noticed; noticed({name!r}, {str(tmp_path)!r})"
    run = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    assert run.returncode != 0, "no check noticed it"
    assert "AssertionError" in run.stderr or run.returncode < 0, run.stderr


def noticed(name: str, folder: str) -> None:
    """Run all checks on the sources of a folder. Raises AssertionError at the first that fails."""
    kind = next(kind for kind in PROCESSOR_KINDS if kind.name == name)
    products = compiled(kind, Path(folder), Path(folder) / "native")
    for precision, check in CHECKS.items():
        for shape in shapes_of(precision):
            check(products, shape)
