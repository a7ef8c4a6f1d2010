"""`choose_setup`: how a bundle is run here, on a CPU unless a GPU can."""

from collections.abc import Sequence

from ..backends.registry import (
    BACKENDS,
    GPU_BACKENDS,
    ONNX_BACKENDS,
    installed_backends,
    why_not_native,
)
from ..bundle.bundle import Bundle
from ..errors import BackendError, OptionError
from ..hardware.cpus import has_vnni, usable_cpus
from ..options import whole
from ..precision import Precision
from .execution_config import Setup
from .select_precision import choose_precision
from .tuning import Tuning

WIDE = 256
"""Channels from which on OpenVINO's quicker 8-bit products outweigh its dearer calls: at 128 they do not, at 312 they do."""


def choose_setup(
    bundle: Bundle,
    *,
    precision: str | Precision | None = None,
    backend: str = "auto",
    device: str | Sequence[str] | None = None,
    threads: int | None = None,
    allow_failed: bool = False,
    tuned: bool = True,
    rebuild: bool = False,
    engine: str | None = None,
    trust_engines: bool = False,
) -> Setup:
    """Decide how a bundle is run here.

    `device` is `cpu`, `cuda`, `cuda:1` or several GPUs; None takes the first GPU where one can run this bundle, and else
    the CPU. On a GPU see `gpu_setup`. On a CPU `backend="auto"` obeys what `crossrt tune` has stored for this bundle and
    machine, and else, as always without `tuned`, takes the native kernels where they run and the model has passed its check
    there, or, for an INT8 model that has kept its order there, OpenVINO on a processor with VNNI, or ONNX Runtime. `threads`
    defaults to the processors this process may use (affinity and cgroup quota). Raises OptionError for an unknown value and
    BackendError, saying what to install, when the backend is missing.
    """
    if backend not in ("auto", *BACKENDS, *GPU_BACKENDS):
        known = ", ".join(dict.fromkeys((*BACKENDS, *GPU_BACKENDS)))
        raise OptionError(f"unknown backend {backend!r}; one of auto, {known}")
    if rebuild and (device == "cpu" or backend not in ("auto", "tensorrt")):
        raise OptionError("rebuild=True builds a TensorRT engine: it goes with a GPU, and backend auto or tensorrt")
    if engine is not None and (device == "cpu" or backend not in ("auto", "tensorrt") or rebuild):
        raise OptionError(
            f"engine={engine!r} names a TensorRT engine of the bundle: it goes with a GPU, backend auto or tensorrt, and "
            "without rebuild"
        )
    if device != "cpu":
        from .select_gpu import gpu_setup

        on_gpu = gpu_setup(
            bundle,
            precision=precision,
            backend=backend,
            device=device,
            allow_failed=allow_failed,
            rebuild=rebuild,
            engine=engine,
            trust_engines=trust_engines,
        )
        if on_gpu is not None:
            return on_gpu
    usable = usable_cpus()
    if threads is not None:
        threads = whole("threads", threads, least=1, hint=f", or None for all {usable} usable processors")
    threads = min(threads or usable, usable)
    chosen = choose_precision(bundle, precision, allow_failed=allow_failed)
    present = installed_backends(chosen)
    able = able_backends(bundle, chosen, allow_failed=allow_failed)
    if precision == "auto" and not {*able} & {*present} & ({*able} if backend == "auto" else {backend}):
        chosen = Precision.FP32
        present, able = installed_backends(chosen), able_backends(bundle, chosen)
    if backend not in ("auto", *able):
        if backend == "native":
            raise BackendError(_why_not(bundle, chosen))
        if chosen is Precision.BF16:
            raise BackendError(f"{backend} does not compute in bf16 on a CPU; use backend={able[0]!r}")
        raise BackendError(
            f"the {chosen.value} model of {bundle.path} failed its check as {backend} computes it: its parity reports there say "
            "why. Take another backend, or this one as it is with allow_failed=True"
        )
    missing = [name for name in (able if backend == "auto" else (backend,)) if name not in present]
    if backend != "auto" and missing:
        if backend == "native":
            raise BackendError(
                f"the backend native cannot run here in {chosen.value}: {why_not_native(chosen)}; use another backend, or "
                "another precision"
            )
        raise BackendError(f'{backend} is not installed: pip install "crossrt[cpu]"')
    if len(missing) == len(able):
        raise BackendError(
            'no backend is installed; on a CPU: pip install "crossrt[cpu]"'
            if able == ONNX_BACKENDS
            else f'{chosen.value} needs {" or ".join(able)}, which is not installed: pip install "crossrt[cpu]"'
        )
    stored = Tuning.stored(bundle, chosen, threads) if tuned and backend == "auto" else None
    if stored is not None and stored.backend in able and stored.backend in present:
        return Setup(
            backend=stored.backend,
            precision=chosen,
            threads=threads,
            streams=min(stored.streams, threads),
            batch_size=stored.batch_size,
            reason="the fastest that crossrt tune measured here",
        )
    found, reason = backend, "asked for"
    if backend == "auto":
        found, why = _untuned(bundle, chosen, [name for name in able if name in present])
        reason = f"{why}; crossrt tune measures what is fastest"
    return Setup(
        backend=found,
        precision=chosen,
        threads=threads,
        streams=threads,
        batch_size=32,
        reason=reason,
    )


def able_backends(bundle: Bundle, precision: Precision, *, allow_failed: bool = False) -> tuple[str, ...]:
    """Return a CPU's backends that compute a precision; of those that were asked, the ones where it passed its check."""
    model = bundle.manifest.models.get(precision.value)
    passed = {} if model is None or allow_failed else model.backends
    able: tuple[str, ...] = ("openvino",) if precision is Precision.BF16 else ONNX_BACKENDS
    if model is not None and model.native_file is not None and precision is not Precision.FP16:  # which is for GPUs
        able = (*able, "native")
    return tuple(name for name in able if passed.get(name, True))


def _untuned(bundle: Bundle, precision: Precision, able: Sequence[str]) -> tuple[str, str]:
    """Return the backend of those that can, and why: the native kernels, or, for INT8 where that is what makes it fast and is
    known to keep the order, OpenVINO. See docs/decisions/0011."""
    if "native" in able:
        return "native", "crossrt's own kernels"
    manifest = bundle.manifest
    model = manifest.models.get(precision.value)
    judged = model is not None and model.backends.get("openvino", False)
    wide = (manifest.architecture.get("hidden_size") or 0) >= WIDE
    if precision is Precision.INT8 and judged and wide and has_vnni() and "openvino" in able:
        return "openvino", "the faster for INT8 on a processor with VNNI"
    return able[0], "not tuned"


def _why_not(bundle: Bundle, precision: Precision) -> str:
    if precision is Precision.FP16:
        return "the backend native computes in fp16 on GPUs alone; ask for fp32, bf16 or int8"
    return (
        f"{bundle.path} has no {precision.value} weights for the backend native: it was exported where they could not be "
        "checked, or they failed their check, or the kernels do not know such a model. Take another backend, or export it again"
    )
