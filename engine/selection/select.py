"""`choose_execution`: chooses how a bundle is run here, on a GPU if one can, otherwise on the CPU."""

from collections.abc import Sequence

from ..backends.registry import (
    BACKENDS,
    GPU_BACKENDS,
)
from ..bundle.bundle import Bundle
from ..errors import BackendError, OptionError
from ..kernels.support import faulty_kernels, native_kind
from ..log import warn_once
from ..options import check_flag
from ..precision import Precision
from .execution_config import CpuConfig, ExecutionConfig
from .select_cpu import choose_cpu


def choose_execution(
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
) -> ExecutionConfig:
    """Choose backend, precision and device for a bundle.

    `device` is `cpu`, `cuda`, `cuda:1` or several GPUs. None takes `cuda:0` if it can run this bundle, and the CPU otherwise.
    See `choose_gpu` for GPUs, with the options `rebuild`, `engine` and `trust_engines`, and `choose_cpu` for the CPU, with
    `threads` and `tuned`. If a library of the native kernels cannot be loaded, the next choice replaces it, with a warning.
    Raises OptionError for an unknown value, and BackendError, saying what to install, if the backend is missing.
    """
    for name, value in (("allow_failed", allow_failed), ("rebuild", rebuild), ("trust_engines", trust_engines)):
        check_flag(name, value)
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
        from .select_gpu import choose_gpu

        on_gpu = choose_gpu(
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
    try:
        config = choose_cpu(
            bundle, precision=precision, backend=backend, threads=threads, allow_failed=allow_failed, tuned=tuned
        )
    except BackendError as error:
        faults = [fault for each in Precision for fault in faulty_kernels(each)]
        if backend not in ("auto", "native") or not faults or faults[0] in str(error):
            raise
        raise BackendError(f"{error}. The native kernels: {faults[0]}") from error
    if backend in ("auto", "native"):
        _warn_of_faulty_kernels(bundle, config)
    return config


def _warn_of_faulty_kernels(bundle: Bundle, config: CpuConfig) -> None:
    model = bundle.manifest.models.get(config.precision.value)
    if model is None or model.native_file is None:
        return
    kind = native_kind(config.precision) if config.native else None
    instead = config.backend if kind is None else f"the kernels for {kind.name}"
    for fault in faulty_kernels(config.precision):
        warn_once(f"{fault}. {config.precision.value} is computed by {instead} instead")
