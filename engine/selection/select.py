"""`choose_execution`: chooses how a bundle is run here, on a GPU if one can, otherwise on the CPU."""

from collections.abc import Sequence

from ..backends.registry import (
    BACKENDS,
    GPU_BACKENDS,
)
from ..bundle.bundle import Bundle
from ..errors import OptionError
from ..precision import Precision
from .execution_config import ExecutionConfig
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

    `device` is `cpu`, `cuda`, `cuda:1` or several GPUs; None takes the first GPU that can run this bundle, otherwise the CPU. See
    `choose_gpu` for GPUs, with the options `rebuild`, `engine` and `trust_engines`, and `choose_cpu` for the CPU, with `threads`
    and `tuned`. Raises OptionError for an unknown value, and BackendError, saying what to install, when the backend is missing.
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
    return choose_cpu(
        bundle, precision=precision, backend=backend, threads=threads, allow_failed=allow_failed, tuned=tuned
    )
