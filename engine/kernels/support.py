"""Whether the native kernels can run in this process: what the processor has, and what this installation has compiled."""

import ctypes
import itertools
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from ..errors import BackendError, OptionError
from ..hardware.cpus import instructions, tiles_permitted
from ..native_library import native_library, open_library
from ..precision import Precision
from .encoder import check_arrays
from .instruction_sets import PROCESSOR_KINDS, ProcessorKind

INTERFACE = 7
"""The version of the kernels' functions. It is increased here and in native/c_api.h whenever their arguments change."""
KERNELS_VARIABLE = "CROSSRT_KERNELS"
"""The environment variable that lists the kinds of native kernels to choose from, separated by commas. By default these are all
kinds with `tried`."""
NARROW = "native_narrow"
"""A bundle's name for the native kernels whose INT8 has 7-bit activations."""
_only: tuple[str, ...] | None = None
"""The kinds that `only_kinds` names."""


@contextmanager
def only_kinds(*names: str) -> Iterator[None]:
    """Restrict the choice to these kinds, in the whole process. For judging and measuring kinds other than this processor's best.

    It affects the sessions that are opened during the block.
    """
    global _only
    before, _only = _only, names
    try:
        yield
    finally:
        _only = before


def native_kind(precision: Precision = Precision.FP32) -> ProcessorKind | None:
    """Return the kind of kernels that computes a precision here, or None if none can.

    It is the fastest kind whose library can be used. `faulty_kernels` says why the libraries of faster kinds cannot. Raises
    OptionError if the environment variable names an unknown kind.
    """
    return next((kind for kind in _executable(precision) if not _fault(kind, precision)), None)


def faulty_kernels(precision: Precision) -> list[str]:
    """Return why the libraries of kinds faster than `native_kind`, which this processor could run, cannot be used."""
    faults = (_fault(kind, precision) for kind in _executable(precision))
    return list(itertools.takewhile(bool, faults))


@cache
def kernel_library(file: Path) -> ctypes.CDLL:
    """Return a library of compiled kernels, loaded once per process. Raises BackendError as `open_library` does."""
    return open_library(file, "crossrt_interface", INTERFACE)


@cache
def check_library(file: Path, precision: Precision) -> None:
    """Check, once per process, that a library expects this version's arrays in `precision`. Raises BackendError if not."""
    check_arrays(kernel_library(file), file, precision)


def parity_key(backend: str, precision: Precision) -> str:
    """Return the name under which a bundle records how a CPU backend passed its check.

    It is the backend's own name, except for narrow INT8. The native kernels compute the same INT8 on all processors with 8-bit
    products. On processors with AVX2 but no VNNI, activations have 7 bits, which ranks passages differently. That arithmetic is
    judged separately, as `native_narrow`.
    """
    kind = native_kind(precision) if backend == "native" and precision is Precision.INT8 else None
    return NARROW if kind is not None and kind.int8 == "narrow" else backend


def native_kernels(precision: Precision = Precision.FP32) -> Path | None:
    """Return the library of kernels that computes a precision on this processor, or None if this installation has none."""
    kind = native_kind(precision)
    return None if kind is None else native_library(kind.library)


def why_not_native(precision: Precision = Precision.FP32) -> str:
    """Say why the native kernels cannot run on this processor in a precision. Empty when they can."""
    if not any(precision.value in kind.precisions for kind in PROCESSOR_KINDS):
        return f"they compute in {precision.value} on GPUs alone"
    if native_kind(precision) is not None:
        return ""
    if not any(native_library(kind.library) for kind in PROCESSOR_KINDS):
        return (
            "this installation has no compiled kernels: install crossrt again on x86-64 or aarch64, where there is a C++ "
            "compiler"
        )
    of_machine = _of_machine(precision)
    if not of_machine:
        return f"none of the kinds {', '.join(_named())} computes in {precision.value} on {platform.machine()}"
    # `compiled[-1]` is the least demanding kind of this installation. If there is none, the compiler was too old.
    compiled = _compiled(precision)
    if not compiled:
        return (
            f"this installation's kernels were compiled without {of_machine[-1].instructions[-1]}: install crossrt again, with "
            "GCC 11 or later"
        )
    faults = faulty_kernels(precision)
    return faults[0] if faults else f"this processor lacks {', '.join(sorted(_lacking(compiled[-1], precision)))}"


def _compiled(precision: Precision) -> list[ProcessorKind]:
    """The kinds of this architecture that compute a precision and are part of this installation, the fastest first."""
    return [kind for kind in _of_machine(precision) if native_library(kind.library) is not None]


def _executable(precision: Precision) -> list[ProcessorKind]:
    """The kinds of `_compiled` whose instructions the processor has."""
    return [kind for kind in _compiled(precision) if not _lacking(kind, precision)]


def _fault(kind: ProcessorKind, precision: Precision) -> str:
    """Say why a compiled library cannot be used. Empty when it can."""
    file = native_library(kind.library)
    try:
        if file is not None:
            check_library(file, precision)
    except BackendError as error:
        return str(error)
    return ""


def _of_machine(precision: Precision) -> list[ProcessorKind]:
    named = _named()
    return [
        kind
        for kind in PROCESSOR_KINDS
        if kind.name in named and precision.value in kind.precisions and platform.machine() in kind.machines
    ]


def _lacking(kind: ProcessorKind, precision: Precision) -> tuple[str, ...]:
    """What the processor, or its operating system, lacks for a kind of kernels."""
    lacking = kind.lacking(precision.value, instructions())
    if not lacking and "amx_tile" in kind.instructions and not tiles_permitted():
        return ("the operating system's permission to use AMX's tiles",)
    return lacking


def _named() -> tuple[str, ...]:
    """The names of the kinds to choose among."""
    value = os.environ.get(KERNELS_VARIABLE, "")
    if _only is not None:
        return _only
    names = tuple(filter(None, (name.strip() for name in value.split(","))))
    known = [kind.name for kind in PROCESSOR_KINDS]
    if not {*names} <= {*known}:
        raise OptionError(
            f"{KERNELS_VARIABLE}={value!r} names kinds that there are not; the kinds are {', '.join(known)}"
        )
    return names or tuple(kind.name for kind in PROCESSOR_KINDS if kind.tried)
