"""`cpu_matrix` shows which backend runs in which precision on which processor, and whether that was measured or tested."""

import json
import runpy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"
KINDS = runpy.run_path(str(ROOT / "engine/kernels/instruction_sets.py"))["PROCESSOR_KINDS"]
FLAGS = {name: kind.flags for name, kind in runpy.run_path(str(ROOT / "tests/processors.py"))["KINDS"].items()}
"""The instructions of each kind of processor that the tests can simulate."""
PRECISIONS = ("fp32", "bf16", "fp16", "int8")
BACKENDS = {"native": "native", "openvino": "OpenVINO", "onnxruntime": "ONNX Runtime"}

Cell = tuple[str, str]
"""Backend and precision."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table: a group of processors.

    - `kind`: the kind of processor in tests/processors.py.
    - `files`: results of benchmarks/processors.py and benchmarks/cpu.py for this kind.
    - `tested`: backends and precisions that are tested on this kind and that no result has.
    """

    title: str
    kind: str
    files: tuple[str, ...] = ()
    tested: frozenset[Cell] = frozenset()


OPENVINO_TESTED = frozenset({("openvino", "fp32")})
ROWS = (
    Row(
        "**AVX512-BF16, AMD** (Zen 4 and later)",
        "avx512_bf16",
        ("cpu", "processors_minilm_amd"),
        frozenset({("onnxruntime", "fp16")}),
    ),
    Row(
        "**AVX512-BF16, Intel** (Cooper Lake; Sapphire Rapids and later where AMX is hidden)",
        "avx512_bf16",
        ("processors_minilm", "processors_tinybert"),
        frozenset({("openvino", "bf16"), ("onnxruntime", "fp16")}),
    ),
    Row("**AMX, Intel** (Sapphire Rapids and later)", "amx", ("cpu_sapphire_rapids",)),
    Row("**AVX512-VNNI** (Intel from Cascade Lake)", "avx512_vnni", ("processors_minilm",), OPENVINO_TESTED),
    Row("**AVX512** (Intel servers from Skylake)", "avx512", (), OPENVINO_TESTED),
    Row("**AVX2 with AVX-VNNI** (Intel Alder Lake and later)", "avx2_vnni", ("processors_minilm",), OPENVINO_TESTED),
    Row(
        "**AVX2** (AMD up to Zen 3, Intel before Alder Lake)",
        "avx2",
        ("processors_minilm", "cpu_avx2"),
        frozenset({("onnxruntime", "fp16")}),
    ),
    Row("**x86-64 without AVX2**", "generic", (), OPENVINO_TESTED),
)
ARM = (
    "| **ARM** | native | emulated | emulated | - | emulated |\n"
    "| | OpenVINO, ONNX Runtime | untested | - | untested | untested |\n"
)


def cpu_matrix() -> str:
    """Return the table as Markdown. Links lead to the results."""
    lines = ["| processor | backend | FP32 | BF16 | FP16 | INT8 |", "|---|---|---|---|---|---|"]
    for row in ROWS:
        measured = measurements(row)
        title = row.title
        for backend, name in BACKENDS.items():
            cells = [cell(row, backend, precision, measured) for precision in PRECISIONS]
            if backend != "native" or any(each != "-" for each in cells):
                lines.append(f"| {title} | {name} | {' | '.join(cells)} |")
                title = ""
    return "\n".join(lines).replace("|  |", "| |") + "\n" + ARM


def cell(row: Row, backend: str, precision: str, measured: Mapping[Cell, str]) -> str:
    """Return the table's cell for a backend and precision on a processor."""
    kind = native_kind(row, precision) if backend == "native" else None
    note = ", with 7 bits" if kind is not None and precision == "int8" and kind.int8 == "narrow" else ""
    if backend == "native" and kind is None:
        return "-"
    if (backend, precision) in measured:
        return f"[measured](../benchmarks/results/{measured[backend, precision]}.json){note}"
    if kind is not None:  # the tests simulate this processor, or another with the same kernels
        return ("untested" if "amx_tile" in FLAGS[row.kind] else "tested") + note
    if precision == "bf16" and not ("avx512_bf16" in FLAGS[row.kind] and backend == "openvino"):
        return "-"
    return "tested" if (backend, precision) in row.tested else "untested"


def native_kind(row: Row, precision: str) -> Any:
    """Return the kind of kernels that runs a precision on a processor, or None."""
    for kind in KINDS:
        x86_64 = "x86_64" in kind.machines and kind.tried and precision in kind.precisions
        if x86_64 and not kind.lacking(precision, FLAGS[row.kind]):
            return kind
    return None


def measurements(row: Row) -> dict[Cell, str]:
    """Return the name of a result for each backend and precision that was measured on such a processor."""
    found: dict[Cell, str] = {}
    for name in row.files:
        path = RESULTS / f"{name}.json"
        for each in measured_in(json.loads(path.read_text(encoding="utf-8")), row):
            found.setdefault(each, name)
    return found


def measured_in(result: Mapping[str, Any], row: Row) -> Iterator[Cell]:
    """Yield the backends and precisions that a result measured on such a processor."""
    for each in result.get("rows", ()):  # of benchmarks/processors.py: each row is limited to a kind
        kind = native_kind(row, each["precision"])
        if kind is not None and each["kind"] == kind.name and each["backend"] in BACKENDS:
            yield each["backend"], each["precision"]
    for each in result.get("systems", ()):  # of benchmarks/cpu.py
        system, _, backend = each["system"].partition(", ")
        names = {title: name for name, title in BACKENDS.items()}
        # Skip exact rankings, which are not a precision of a backend.
        if system.startswith("crossrt ") and "failed" not in each and (not backend or backend in names):
            yield names[backend] if backend else "native", system.removeprefix("crossrt ").lower()
    for backend in result.get("pairs_per_s", ()):  # in FP32
        yield backend, "fp32"
