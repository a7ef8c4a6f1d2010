"""`choose_gpu`: chooses GPUs, backend and precision of a bundle; `open_executors` opens what was chosen."""

import contextlib
import importlib.util
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..backends.registry import GPU_BACKENDS, backend_version, has_cuda, why_unusable
from ..bundle import engine_cache
from ..bundle.bundle import Bundle
from ..bundle.engine_cache import EngineCache
from ..bundle.engine_file import LIBRARIES, EngineFile, numbers
from ..cuda.bindings import installed_bindings, open_cuda
from ..cuda.cuda import Cuda
from ..errors import BackendError, OptionError
from ..hardware.gpus import gpus
from ..log import warn_once
from ..precision import Precision
from .execution_config import GpuConfig
from .select_precision import choose_precision

if TYPE_CHECKING:
    from ..backends.gpu_executor import GpuExecutor

MIN_CAPABILITY = (8, 0)
"""Lowest compute capability that the native kernels run on."""
UNTRIED_ARCHITECTURES = ("modernbert",)
"""Model types whose native kernels have not run on a GPU yet (docs/decisions/0032). `backend="auto"` takes them last."""


def choose_gpu(
    bundle: Bundle,
    *,
    precision: str | Precision | None,
    backend: str,
    device: str | Sequence[str] | None,
    allow_failed: bool,
    rebuild: bool = False,
    engine: str | None = None,
    trust_engines: bool = False,
) -> GpuConfig | None:
    """Choose GPUs, backend and precision. Returns None if `device` is None and `cuda:0` cannot run the bundle.

    `precision=None` means FP32; `"auto"` means the first of FP16 and FP32 that passed its check. `backend="auto"` takes the
    first of these that can run the bundle: a TensorRT engine built for this GPU and TensorRT version, the native kernels, ONNX
    Runtime's CUDA. The native kernels come last for a model in `UNTRIED_ARCHITECTURES`. It warns if the bundle has engines and
    none of them can be used. Engines in the user's cache are always allowed; engines in the bundle only with `trust_engines`,
    since TensorRT runs their content as machine code. `rebuild` builds a missing engine into the cache, which takes minutes.
    `engine` names the engine file of the bundle to use. If a GPU was asked for and cannot be used, raises BackendError, saying
    what is missing.
    """
    present = gpus()
    half = precision is Precision.FP16 or precision == Precision.FP16.value
    if device is None and (engine is not None or backend == "tensorrt" or (backend == "native" and half and present)):
        device = "cuda"  # these options only make sense on a GPU
    ordinals = ordinals_of(device)
    if device is None and (not present or backend not in ("auto", *GPU_BACKENDS)):
        return None
    if not present:
        raise BackendError(
            f"device {device!r}: no NVIDIA driver with a GPU was found here; install the driver, or use device='cpu'"
        )
    missing = [ordinal for ordinal in ordinals if ordinal >= len(present)]
    if missing:
        raise BackendError(f"there is no device cuda:{missing[0]}; there are cuda:0 to cuda:{len(present) - 1}")
    chosen = choose_precision(
        bundle, precision, allow_failed=allow_failed, fastest_first=(Precision.FP16, Precision.FP32)
    )
    if rebuild and backend in ("auto", "tensorrt"):
        for ordinal in ordinals:
            if _engine(bundle, chosen, ordinal, trusted=trust_engines)[0] is None:
                engine_cache.rebuild(bundle, chosen, ordinal)
    why_not = {
        "tensorrt": lambda: _no_engine(bundle, chosen, ordinals, engine, trusted=trust_engines),
        "native": lambda: _no_native(bundle, chosen, ordinals),
        "onnxruntime": lambda: _no_cuda(chosen),
    }
    order: tuple[str, ...] = GPU_BACKENDS
    if bundle.manifest.architecture.get("model_type") in UNTRIED_ARCHITECTURES:
        order = tuple(sorted(GPU_BACKENDS, key=lambda name: name == "native"))
    wanted = ("tensorrt",) if engine else order if backend == "auto" else (backend,)
    reasons, able = {}, None
    for name in wanted:  # stops at the first that can run: checking others would load their libraries
        reasons[name] = why_not[name]() if name in why_not else "is for CPUs"
        if not reasons[name]:
            able = name
            break
    if able is None and device is not None:
        raise BackendError(
            f"{bundle.path} cannot run on {device} in {chosen.value}:\n  "
            + "\n  ".join(f"{name}: {reason}" for name, reason in reasons.items())
        )
    has_engine = any(each.precision == chosen.value for each in bundle.manifest.engines)
    if has_engine and reasons.get("tensorrt"):
        instead = {None: "on the CPU", "native": "by the native kernels", "onnxruntime": "by ONNX Runtime's CUDA"}[able]
        warn_once(f"{bundle.path} runs {instead}, and not by a TensorRT engine: {reasons['tensorrt']}")
    if able is None:
        return None
    return GpuConfig(
        backend=able,
        precision=chosen,
        reason="asked for" if backend != "auto" else "the first of " + ", ".join(order) + " that can",
        ordinals=ordinals,
        engine=engine,
        trust_engines=trust_engines,
    )


def open_executors(bundle: Bundle, config: GpuConfig) -> "list[GpuExecutor]":
    """Open the model on each device of the config. Raises BackendError or CudaError, after closing those already open."""
    executors: list[GpuExecutor] = []
    with contextlib.ExitStack() as opened:
        for ordinal in config.ordinals:
            cuda = open_cuda(ordinal)
            opened.callback(cuda.close)
            with cuda.current():
                executors.append(_executor(bundle, config, cuda))
            opened.callback(_close, executors[-1])
        opened.pop_all()
    return executors


def ordinals_of(device: str | Sequence[str] | None) -> tuple[int, ...]:
    """Return the ordinals of the GPUs that `device` names; `cuda:0` for None.

    Raises BackendError for a name that is not a GPU's, and OptionError for a GPU that is named twice.
    """
    names = ("cuda",) if device is None else (device,) if isinstance(device, str) else tuple(device)
    ordinals = []
    for name in names:
        kind, colon, number = str(name).partition(":")
        if kind != "cuda" or (colon and not number.isdecimal()):
            raise BackendError(f"device {name!r} is not supported; use 'cpu', 'cuda', 'cuda:1', or a list of GPUs")
        ordinals.append(int(number or 0))
    if not ordinals or len(set(ordinals)) < len(ordinals):
        raise OptionError(f"device={device!r}: name each GPU once")
    return tuple(ordinals)


def _executor(bundle: Bundle, config: GpuConfig, cuda: Cuda) -> "GpuExecutor":
    if config.backend == "tensorrt":
        from ..backends.tensorrt import TensorRtExecutor

        engine, reason = _engine(bundle, config.precision, cuda.ordinal, config.engine, trusted=config.trust_engines)
        if engine is None:  # removed since the config was chosen
            raise BackendError(reason)
        return TensorRtExecutor(*engine, cuda)
    if config.backend == "native":
        from ..backends.native_cuda import NativeGpuExecutor

        return NativeGpuExecutor(bundle, cuda)
    if config.backend == "onnxruntime":
        from ..backends.onnxruntime_cuda import OnnxRuntimeExecutor

        return OnnxRuntimeExecutor(bundle, config.precision, cuda)
    raise BackendError(f"no backend {config.backend!r} scores on a GPU; use one of {', '.join(GPU_BACKENDS)}")


def _close(executor: "GpuExecutor") -> None:
    with executor.cuda.current():
        executor.close()


def _engine(
    bundle: Bundle, precision: Precision, ordinal: int, file: str | None = None, *, trusted: bool
) -> tuple[tuple[Bundle, EngineFile] | None, str]:
    """Return the engine for this GPU with the bundle that holds it, or None with the reason and what to do.

    Of several engines it prefers one that was built on the same GPU, then the newest TensorRT, then the first. `file` restricts
    the choice to that engine of the bundle. The bundle's own engines count only if they are `trusted`.
    """
    gpu = gpus()[ordinal]
    given = shlex.quote(str(bundle.path))
    build = f"build one here with: crossrt engines {given} --precision {precision.value}, or with rebuild=True"
    reason = f"the bundle has no {precision.value} engine{f' {file}' if file else ''}; {build}"
    untrusted = ""
    fitting: list[tuple[Bundle, EngineFile]] = []
    for engine in bundle.manifest.engines:
        if engine.precision != precision.value or file not in (None, engine.file):
            continue
        if importlib.util.find_spec(engine.library) is None:
            reason = f"{engine.file} needs {engine.library} {engine.version}, which is not installed"
            continue
        version = backend_version(engine.library)
        mismatch = engine.mismatch(library=engine.library, version=version, gpu=gpu.name, capability=gpu.capability)
        if mismatch:
            reason = f"{mismatch}; {build}"
        elif trusted:
            fitting.append((bundle, engine))
        else:
            untrusted = (
                f"{engine.file} came with the bundle, and TensorRT runs what is in it as machine code; if you built it, or trust "
                f"who did, allow it with trust_engines=True (--trust-engines), or {build}"
            )
    for library in LIBRARIES:
        if file is None and importlib.util.find_spec(library) is not None:
            version = backend_version(library)
            cache = EngineCache.of_user()
            cached = None if cache is None else cache.find(bundle, precision, gpu=gpu, library=library, version=version)
            if cached is not None:
                fitting.append(cached)
    if not fitting:
        return None, untrusted or reason
    return max(fitting, key=lambda pair: (pair[1].gpu == gpu.name, numbers(pair[1].version))), ""


def _no_engine(
    bundle: Bundle, precision: Precision, ordinals: Sequence[int], file: str | None, *, trusted: bool
) -> str:
    reasons = (_engine(bundle, precision, ordinal, file, trusted=trusted)[1] for ordinal in ordinals)
    return next(filter(None, reasons), "")


def _no_native(bundle: Bundle, precision: Precision, ordinals: Sequence[int]) -> str:
    if precision is not Precision.FP16:
        return f"computes only fp16 on a GPU, not {precision.value}"
    if installed_bindings() != "cuda.bindings":
        return 'needs cuda-bindings: pip install "crossrt[cuda]"'
    old = [gpus()[ordinal] for ordinal in ordinals if numbers(gpus()[ordinal].capability) < MIN_CAPABILITY]
    if old:
        return f"needs compute capability 8.0, and {old[0].name} has {old[0].capability}"
    model = bundle.manifest.models[precision.value]
    if model.native_file is None:
        return (
            "the bundle has no FP16 weights for it: it was exported without --precision fp16, or by an older crossrt, or they "
            "failed their check, or the kernels do not know such a model"
        )
    from ..cuda.cublas import load_cublas
    from ..cuda.cuda_kernels import capabilities_of_compiler

    try:
        load_cublas()
        known = capabilities_of_compiler()
    except BackendError as error:
        return str(error)
    new = [gpus()[ordinal] for ordinal in ordinals if gpus()[ordinal].capability not in known]
    if new:
        return (
            f"NVRTC here does not know compute capability {new[0].capability}, which {new[0].name} has: install a newer "
            "nvidia-cuda-nvrtc"
        )
    return ""


def _no_cuda(precision: Precision) -> str:
    if precision not in (Precision.FP32, Precision.FP16, Precision.INT8):
        return f"does not compute in {precision.value} on a GPU"
    return (
        why_unusable("onnxruntime")
        if has_cuda()
        else 'needs onnxruntime-gpu and cuda-bindings: pip install "crossrt[cuda]"'
    )
