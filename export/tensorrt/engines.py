"""`add_engines`: TensorRT engines of a bundle's models, built for the GPU at hand, checked on it, and put into the bundle."""

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
    """Build an engine for each precision and put all into the bundle, in one step, replacing those of the same GPU and TensorRT.

    `lengths`, int64 [n], are the tokens of the user's pairs; kernels are chosen for these shapes. `max_length` and `tokens` bound
    the tokens of a pair and of a batch, and so the memory that the engine takes. Unless `options` name a timing cache, the one
    in the user's cache is used. With `refit_from`, a bundle of the same shape with a refittable engine, that engine takes this
    bundle's weights and nothing is built; it needs `trust_engines`, since that engine is loaded. With `cache` the engines go
    to the user's cache instead, except those that are there already, and other processes that build the same wait. INT8 is
    judged by how it ranks `judging`; see `check_engine`. Takes minutes for each engine; `progress` is called with a line of text
    at the start of each stage.

    Raises BackendError without a GPU or TensorRT, OptionError for shapes that the model does not take and for an engine that
    is not trusted, and ParityError, with the bundle as it was, when an engine's scores differ.
    """
    if refit_from is not None and not trust_engines:
        raise OptionError(
            f"refit_from: the engine in {refit_from.path} came with that bundle, and TensorRT runs what is in it as machine "
            "code; if you built it, or trust who did, allow it with trust_engines=True (--trust-engines)"
        )
    gpu, library = here(device)
    unknown = [precision.value for precision in precisions if precision not in ALLOWED]
    if unknown:
        raise OptionError(f"no engine is built in {', '.join(unknown)}; one or more of fp32, fp16, int8")
    for precision in precisions:
        bundle.model_file(precision)  # before minutes are spent
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


def here(device: int = 0) -> tuple[Gpu, str]:
    """Return the GPU and the TensorRT library at hand. Raises BackendError, saying what is missing."""
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
