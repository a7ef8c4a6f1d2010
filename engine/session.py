"""`Session`: an opened model that owns its memory; and `open_session`, which picks the backend."""

import importlib.metadata
import importlib.util
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .bundle import Bundle
from .cpus import usable_cpus
from .errors import BackendError, BundleError, OptionError
from .plan import Batch
from .precision import Precision

BACKENDS = ("onnxruntime",)


class Session(Protocol):
    """An opened model. One contract test runs against every implementation."""

    backend: str
    device: str
    precision: Precision
    threads: int

    def run(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Score one padded batch.

        Returns raw logits float32 [batch, labels], before any activation; the caller owns the array. Raises ShapeError
        for a batch longer than the model's positions. Several threads may call at once.
        """

    def close(self) -> None:
        """Free what the session allocated. May be called again."""


def choose_precision(bundle: Bundle, asked: str | Precision | None, *, allow_failed: bool = False) -> Precision:
    """Return the precision to run: FP32 unless another was asked for, `"auto"` included.

    `"auto"` takes the fastest that passed its parity gate, in the order int8, fp16, fp32, of what a CPU can run.
    Raises OptionError for an unknown name and BundleError for a precision that the bundle lacks, or that failed its
    check unless `allow_failed`.
    """
    models = bundle.manifest.models
    if asked is None:
        return Precision.FP32
    if asked == "auto":
        for candidate in (Precision.INT8, Precision.FP32):
            model = models.get(candidate.value)
            if model is not None and (model.parity or {}).get("passed"):
                return candidate
        return Precision.FP32
    precision = Precision.parse(asked)
    if precision is Precision.BF16:
        raise BackendError("bf16 is not a precision that the installed backends compute in; use fp32")
    bundle.model_file(precision)
    parity = models[precision.value].parity
    if parity is not None and not parity.get("passed") and not allow_failed:
        raise BundleError(
            f"the {precision.value} model of {bundle.path} failed its check: parity.{precision.value}.json says why. Export "
            "it again, or take it as it is with allow_failed=True"
        )
    return precision


def open_session(
    bundle: Bundle,
    *,
    precision: str | Precision | None = None,
    backend: str = "auto",
    device: str | None = None,
    threads: int | None = None,
    allow_failed: bool = False,
) -> Session:
    """Open the bundle's model on a backend.

    `threads` defaults to the processors this process may use (affinity and cgroup quota). Raises OptionError for an
    unknown value and BackendError, saying what to install, when the backend is missing.
    """
    if backend not in ("auto", *BACKENDS):
        raise OptionError(f"unknown backend {backend!r}; one of auto, {', '.join(BACKENDS)}")
    if device is not None and device != "cpu":
        raise BackendError(
            f"device {device!r} is not supported by this version of crossrt, which runs on the CPU: device='cpu'"
        )
    usable = usable_cpus()
    if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
        raise OptionError(
            f"threads={threads!r}: give a whole number from 1, or None for all {usable} usable processors"
        )
    chosen = choose_precision(bundle, precision, allow_failed=allow_failed)
    _check_onnxruntime()
    from .onnxruntime import OnnxRuntimeSession

    return OnnxRuntimeSession(bundle, precision=chosen, threads=min(threads or usable, usable))


def explain(
    bundle: Bundle,
    *,
    precision: str | Precision | None = None,
    backend: str = "auto",
    device: str | None = None,
    threads: int | None = None,
) -> str:
    """Say in one line what `open_session` would open with these options, and why."""
    session = open_session(bundle, precision=precision, backend=backend, device=device, threads=threads)
    session.close()
    why = {None: "fp32 unless another is asked for", "auto": "the fastest that passed parity"}.get(
        precision, "asked for"
    )
    version = importlib.metadata.version("onnxruntime") if _has_distribution("onnxruntime") else "?"
    choice = "asked for" if backend != "auto" else "the one backend of this version"
    return (
        f"{session.precision.value} ({why}) on {session.backend} {version} ({choice}), {session.device}, "
        f"{session.threads} of {usable_cpus()} usable processors"
    )


def _check_onnxruntime() -> None:
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if _has_distribution(name)]
    if len(installed) == 2:
        raise BackendError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files: "
            'uninstall both, then install one of "crossrt[cpu]" and onnxruntime-gpu'
        )
    if importlib.util.find_spec("onnxruntime") is None:
        raise BackendError('no backend is installed; on a CPU: pip install "crossrt[cpu]"')


def _has_distribution(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
