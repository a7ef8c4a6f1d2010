"""`choose_cpu`: chooses backend and precision of a bundle on a CPU."""

import os
from collections.abc import Sequence

from ..backends.registry import ONNX_BACKENDS, installed_backends, why_unusable
from ..bundle.bundle import Bundle
from ..errors import BackendError
from ..hardware.cpus import has_vnni, instructions, usable_cpus
from ..kernels.support import KERNELS_VARIABLE, NARROW, faulty_kernels, native_kind, parity_key, why_not_native
from ..options import whole
from ..precision import Precision
from .execution_config import CpuConfig
from .select_precision import choose_precision
from .tuning import Tuning

OPENVINO_MIN_HIDDEN = 256
"""Smallest hidden size at which OpenVINO is chosen for INT8: its 8-bit products are faster than ONNX Runtime's, but its calls
cost more. Measured: slower at a hidden size of 128, faster at 312 (docs/decisions/0011)."""


def choose_cpu(
    bundle: Bundle,
    *,
    precision: str | Precision | None = None,
    backend: str = "auto",
    threads: int | None = None,
    allow_failed: bool = False,
    tuned: bool = True,
) -> CpuConfig:
    """Choose backend and precision of a bundle on this CPU.

    `backend="auto"` takes what `crossrt tune` stored for this bundle and machine, unless `tuned` is False. Otherwise it chooses
    among the backends that are installed and passed the parity check for this bundle (docs/decisions/0011). If the native
    kernels are one of them:

    - OpenVINO for INT8 and BF16 on a processor with AMX, if the bundle passed with OpenVINO and the native kernels do not use
      AMX;
    - otherwise the native kernels, if they were measured on such a processor, or are named by an environment variable, or there
      is no other backend;
    - otherwise ONNX Runtime, or OpenVINO if that is missing.

    Without the native kernels:

    - OpenVINO for INT8 on a processor with VNNI or AMX, if the bundle passed with OpenVINO and the model has a hidden size of at
      least `OPENVINO_MIN_HIDDEN`;
    - otherwise ONNX Runtime, or OpenVINO if that is missing.

    `threads` defaults to the processors that this process may use (affinity and cgroup quota). `allow_failed` also takes a
    precision or backend that failed its check. Raises OptionError for an unknown value, and BackendError, saying what to
    install, for a missing backend.
    """
    usable = usable_cpus()
    if threads is not None:
        threads = whole("threads", threads, minimum=1, hint=f", or None for all {usable} usable processors")
    threads = min(threads or usable, usable)
    chosen = choose_precision(bundle, precision, allow_failed=allow_failed)
    present = installed_backends(chosen)
    able = able_backends(bundle, chosen, allow_failed=allow_failed)
    if precision == "auto" and not {*able} & {*present} & ({*able} if backend == "auto" else {backend}):
        chosen = Precision.FP32
        present, able = installed_backends(chosen), able_backends(bundle, chosen)
    _check_backend(bundle, chosen, backend, able, present)
    stored = Tuning.load(bundle, chosen, threads) if tuned and backend == "auto" else None
    if stored is not None and stored.backend in able and stored.backend in present:
        return CpuConfig(
            backend=stored.backend,
            precision=chosen,
            threads=threads,
            streams=min(stored.streams, threads),
            batch_size=stored.batch_size,
            reason="the fastest that crossrt tune measured here",
        )
    reason = "asked for"
    if backend == "auto":
        backend, why = _untuned(bundle, chosen, [name for name in able if name in present])
        reason = f"{why}; crossrt tune measures what is fastest"
    return CpuConfig(
        backend=backend,
        precision=chosen,
        threads=threads,
        streams=threads,
        batch_size=32,
        reason=reason,
    )


def _check_backend(
    bundle: Bundle, precision: Precision, backend: str, able: Sequence[str], present: Sequence[str]
) -> None:
    """Raise BackendError, saying what to do, unless the backend, or one of `able` for `auto`, can compute the precision here.

    `able` are the backends that can compute the bundle in this precision, and `present` those that are installed.
    """
    if backend not in ("auto", *able):
        if backend == "native":
            raise BackendError(_why_not(bundle, precision))
        if precision is Precision.BF16 and backend != "openvino":
            raise BackendError(f"{backend} does not compute in bf16 on a CPU; use backend={able[0]!r}")
        raise BackendError(
            f"the {precision.value} model of {bundle.path} failed its check as {backend} computes it: its parity reports there "
            "say why. Take another backend, or this one as it is with allow_failed=True"
        )
    missing = [name for name in (able if backend == "auto" else (backend,)) if name not in present]
    reasons = _why_missing(missing, precision)
    if backend != "auto" and missing:
        raise BackendError(
            f"the backend {reasons[0]}; use another backend, or another precision"
            if reasons
            else f'{backend} is not installed: pip install "crossrt[cpu]"'
        )
    if len(missing) == len(able):
        raise BackendError(
            "; ".join(
                (
                    'no backend is installed; on a CPU: pip install "crossrt[cpu]"'
                    if able == ONNX_BACKENDS
                    else f'{precision.value} needs {" or ".join(able)}, which is not installed: pip install "crossrt[cpu]"',
                    *reasons,
                )
            )
        )


def able_backends(bundle: Bundle, precision: Precision, *, allow_failed: bool = False) -> tuple[str, ...]:
    """Return the CPU backends that compute a precision, without those where the model failed its parity check."""
    model = bundle.manifest.models.get(precision.value)
    passed = {} if model is None else model.backends
    able: tuple[str, ...] = ("openvino",) if precision is Precision.BF16 else ONNX_BACKENDS
    if model is not None and model.native_file is not None and precision is not Precision.FP16:  # for GPUs
        able = (*able, "native")
    if allow_failed:
        return able
    # What was not judged counts as passed, except narrow INT8, which an export judges whenever it can.
    judged = ((name, parity_key(name, precision)) for name in able)
    return tuple(name for name, judgement in judged if passed.get(judgement, judgement != NARROW))


def _untuned(bundle: Bundle, precision: Precision, able: Sequence[str]) -> tuple[str, str]:
    """Return one of the backends `able` and the reason for it. See `choose_cpu` for the order."""
    manifest = bundle.manifest
    model = manifest.models.get(precision.value)
    judged = model is not None and model.backends.get("openvino", False)
    others = [name for name in able if name != "native"]
    if "native" in able:
        # AMX computes 8 times as many INT8 products per cycle as AVX512-VNNI, which the native kernels use.
        amx = {Precision.INT8: "amx_int8", Precision.BF16: "amx_bf16"}.get(precision)
        if amx in instructions() and judged and "openvino" in able and not _by_amx(precision):
            return "openvino", "it computes by AMX, for which the native kernels have not been measured"
        kind = native_kind(precision)
        if not others or kind is None or kind.measured or os.environ.get(KERNELS_VARIABLE):
            return "native", "the native kernels"
        return others[0], f"the native kernels for {kind.name} have not been measured"
    wide = (manifest.architecture.get("hidden_size") or 0) >= OPENVINO_MIN_HIDDEN
    if precision is Precision.INT8 and judged and wide and has_vnni() and "openvino" in able:
        return "openvino", "the faster for INT8 on a processor with VNNI"
    return able[0], "not tuned"


def _by_amx(precision: Precision) -> bool:
    """Tell whether the native kernels use AMX for a precision. They do only on request."""
    kind = native_kind(precision)
    return kind is not None and "amx_tile" in kind.instructions


def _why_missing(missing: Sequence[str], precision: Precision) -> list[str]:
    """Return why each missing backend cannot run here. Leaves out those that are merely not installed."""
    why = {name: why_not_native(precision) if name == "native" else why_unusable(name) for name in missing}
    return [f"{name} cannot run here in {precision.value}: {reason}" for name, reason in why.items() if reason]


def _why_not(bundle: Bundle, precision: Precision) -> str:
    if precision is Precision.FP16:
        return "the backend native computes in fp16 on GPUs alone; ask for fp32, bf16 or int8"
    model = bundle.manifest.models.get(precision.value)
    if model is not None and model.native_file is not None and parity_key("native", precision) == NARROW:
        failed = NARROW in model.backends
        cause = (
            "the native kernels with 8-bit products (VNNI) cannot be loaded"
            if faulty_kernels(precision)
            else "this processor has no 8-bit products (VNNI)"
        )
        return (
            f"{cause}, so the backend native computes int8 with activations of 7 bits, and {bundle.path} "
            f"{'failed its check so' if failed else 'was not checked so'}. Take another backend"
            f"{'' if failed else ', export it again'}, or take this one as it is with allow_failed=True"
        )
    return (
        f"{bundle.path} has no {precision.value} weights for the backend native: it was exported where they could not be "
        "checked, or they failed their check, or the kernels do not know such a model. Take another backend, or export it again"
    )
