"""Whether the native kernels can run in this process: what the processor has, and what this installation has compiled."""

from pathlib import Path

from ..hardware.cpus import instructions
from ..precision import Precision
from .instruction_sets import PRECISIONS
from .library import native_library

REQUIRED_INSTRUCTIONS = {Precision(name): frozenset(required) for name, required in PRECISIONS.items()}
"""What a processor must have for a precision."""


def native_kernels() -> Path | None:
    """Return the library of kernels for this processor, or None if this installation has none.

    On a processor with AVX512-BF16 it is the library for that, in all precisions: INT8 computes attention in BF16, and gains too.
    """
    bf16 = None if _missing(Precision.BF16) else native_library("native_avx512_bf16")
    return bf16 or native_library("native_avx512")


def why_not_native(precision: Precision = Precision.FP32) -> str:
    """Say why the native kernels cannot run on this processor in a precision. Empty when they can."""
    if precision not in REQUIRED_INSTRUCTIONS:
        return f"they compute in {precision.value} on GPUs alone"
    if native_kernels() is None:
        return (
            "this installation has no compiled kernels: install crossrt again on x86-64, where there is a C++ compiler"
        )
    missing = _missing(precision)
    if missing:
        return f"this processor lacks {', '.join(missing)}"
    if precision is Precision.BF16 and native_library("native_avx512_bf16") is None:
        return (
            "this installation's kernels were compiled without AVX512-BF16: install crossrt again, with GCC 11 or later"
        )
    return ""


def _missing(precision: Precision) -> list[str]:
    return sorted(REQUIRED_INSTRUCTIONS[precision] - instructions())
