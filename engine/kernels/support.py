"""Whether the native kernels can run in this process: what the processor has, and what this installation has compiled."""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..hardware.cpus import instructions
from ..precision import Precision
from .instruction_sets import KINDS, Kind
from .library import native_library

_kinds = KINDS
"""The kinds to choose from."""


@contextmanager
def only_kinds(*names: str) -> Iterator[None]:
    """Choose among these kinds alone, in the whole process. For judging and measuring kinds that are not this processor's first.

    It concerns sessions that are opened during the block.
    """
    global _kinds
    before = _kinds
    _kinds = tuple(kind for kind in KINDS if kind.name in names)
    try:
        yield
    finally:
        _kinds = before


def native_kind(precision: Precision = Precision.FP32) -> Kind | None:
    """Return the kind of kernels that computes a precision here, or None if none can."""
    present = instructions()
    able = (kind for kind in _compiled(precision) if not kind.lacking(precision.value, present))
    return next(able, None)


def native_kernels(precision: Precision = Precision.FP32) -> Path | None:
    """Return the library of kernels that computes a precision on this processor, or None if this installation has none."""
    kind = native_kind(precision)
    return None if kind is None else native_library(kind.library)


def why_not_native(precision: Precision = Precision.FP32) -> str:
    """Say why the native kernels cannot run on this processor in a precision. Empty when they can."""
    if not any(precision.value in kind.precisions for kind in KINDS):
        return f"they compute in {precision.value} on GPUs alone"
    if native_kind(precision) is not None:
        return ""
    if not any(native_library(kind.library) for kind in KINDS):
        return (
            "this installation has no compiled kernels: install crossrt again on x86-64, where there is a C++ compiler"
        )
    of_machine = [kind for kind in _kinds if precision.value in kind.precisions and platform.machine() in kind.machines]
    if not of_machine:
        return f"they compute in {precision.value} on other processors than {platform.machine()} alone"
    # The least demanding kind that this installation has. Without one it is the compiler that was too old.
    compiled = _compiled(precision)
    if not compiled:
        return (
            f"this installation's kernels were compiled without {of_machine[-1].instructions[-1]}: install crossrt again, with "
            "GCC 11 or later"
        )
    return f"this processor lacks {', '.join(sorted(compiled[-1].lacking(precision.value, instructions())))}"


def _compiled(precision: Precision) -> list[Kind]:
    """The kinds of this architecture that compute a precision and are part of this installation, the fastest first."""
    return [
        kind
        for kind in _kinds
        if precision.value in kind.precisions
        and platform.machine() in kind.machines
        and native_library(kind.library) is not None
    ]
