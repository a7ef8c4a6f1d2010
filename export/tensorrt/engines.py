"""`add_engines`: builds TensorRT engines of a bundle's models for the GPU of this machine, checks them, and publishes them."""

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...calibration.judging_set import JudgingSet
from ...engine.backends.registry import backend_version
from ...engine.bundle.bundle import Bundle
from ...engine.bundle.engine_cache import EngineCache
from ...engine.bundle.engine_file import LIBRARIES
from ...engine.bundle.profiles import TOKENS, profiles_for
from ...engine.errors import BackendError, OptionError
from ...engine.files.cache import ADVICE, cache_folder
from ...engine.hardware.gpus import Gpu, gpus
from ...engine.precision import Precision
from .build import TIMINGS, BuildOptions, Progress
from .engine_builder import EngineBuilder, slug
from .engine_check import ALLOWED, EngineCheck


def add_engines(
    bundle: Bundle,
    precisions: Sequence[Precision],
    *,
    device: int = 0,
    lengths: npt.NDArray[np.int64] | None = None,
    options: BuildOptions | None = None,
    max_length: int | None = None,
    tokens: int = TOKENS,
    refit_from: Bundle | None = None,
    trust_engines: bool = False,
    cache: bool = False,
    judging: JudgingSet | None = None,
    progress: Progress = lambda text: None,
) -> tuple[Bundle, tuple[EngineCheck, ...]]:
    """Build an engine for each precision and put all of them into the bundle atomically.

    They replace engines for the same GPU and TensorRT. `lengths`, int64 [n], are the lengths of the user's pairs in tokens;
    TensorRT chooses its kernels for these shapes. `max_length` and `tokens` limit the tokens of a pair and of a batch, and so the
    memory of the engine. Unless `options` name a timing cache, the one in the user's cache is used.

    `refit_from` is a bundle with the same architecture and a refittable engine. That engine gets this bundle's weights, and
    nothing is built. This needs `trust_engines`, because the engine is loaded. With `cache` the engines are put into the user's
    cache instead, except those that are already there. Other processes that build the same engine wait. INT8 is judged by how it
    ranks `judging`; see `check_engine`.

    It takes minutes for each engine. `progress` is called with a line of text at the start of each stage.

    Raises BackendError without a GPU or TensorRT. Raises OptionError for shapes that the model does not support and for an engine
    that is not trusted. Raises ParityError when an engine's scores differ too much; the bundle then stays as it was.
    """
    if refit_from is not None and not trust_engines:
        raise OptionError(
            f"refit_from: the engine in {refit_from.path} came with that bundle, and TensorRT runs what is in it as machine "
            "code; if you built it, or trust who did, allow it with trust_engines=True (--trust-engines)"
        )
    gpu, library = here(device)
    check_precisions(precisions)
    for precision in precisions:
        bundle.model_file(precision)  # raises before minutes are spent on a build
    positions = bundle.manifest.max_positions
    if max_length is not None and not 1 <= max_length <= positions:
        raise OptionError(f"max_length={max_length}: the model has positions for {positions} tokens; give 1 to that")
    version = backend_version(library)
    options = options or BuildOptions()
    builder = EngineBuilder(
        bundle=bundle,
        gpu=gpu,
        library=library,
        version=version,
        device=device,
        profiles=profiles_for(max_length or positions, lengths=lengths, tokens=tokens),
        options=replace(options, timing_cache=options.timing_cache or _timings(gpu, version)),
        refit_from=refit_from,
        judging=judging,
        progress=progress,
    )
    if not cache:
        checks = builder.publish(bundle.path, precisions, replace_engines=False)
        return Bundle.open(bundle.path), checks
    checks = ()
    engine_cache = EngineCache.of_user()
    if engine_cache is None:
        raise BackendError(f"engines cannot be kept, since this user has no home directory: {ADVICE}")
    for precision in precisions:
        names = {"gpu": gpu, "library": library, "version": version}
        entry = engine_cache.entry(bundle, precision, **names, profiles=builder.profiles)  # type: ignore[arg-type]
        with engine_cache.locked(entry):
            if builder.is_made(entry):
                progress(f"{entry} holds the {precision.value} engine already")
            else:
                checks += builder.publish(entry, [precision], replace_engines=True)
    return bundle, checks


def check_precisions(precisions: Sequence[Precision]) -> None:
    """Raise OptionError for a precision in which no engine is built."""
    unknown = [precision.value for precision in precisions if precision not in ALLOWED]
    if unknown:
        raise OptionError(f"no engine is built in {', '.join(unknown)}; one or more of fp32, fp16, int8")


def here(device: int = 0) -> tuple[Gpu, str]:
    """Return the GPU and the installed TensorRT library. Raises BackendError, saying what is missing."""
    present = gpus()
    if len(present) <= device:
        raise BackendError(
            f"TensorRT engines are built and checked on the GPU that they are for, and there is no cuda:{device} here: "
            "install the NVIDIA driver, or build the engines on the machine that will score"
        )
    library = next((name for name in LIBRARIES if importlib.util.find_spec(name) is not None), None)
    if library is None:
        raise BackendError(
            'TensorRT is not installed: pip install "crossrt[tensorrt]", or "crossrt[rtx]" for GeForce and RTX GPUs'
        )
    return present[device], library


def _timings(gpu: Gpu, version: str) -> Path | None:
    """Return the timing cache of a GPU and a TensorRT version; None for a user without a home directory."""
    folder = cache_folder(TIMINGS)
    return None if folder is None else folder / f"{slug(gpu.name)}.{version}"
