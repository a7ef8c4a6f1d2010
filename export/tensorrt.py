"""TensorRT engines from ONNX files: TensorRT 10.12 to 11 and TensorRT-RTX, whose networks are typed by the file alone."""

import importlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..engine.engine_file import Profile
from ..engine.errors import BackendError, OptionError
from ..engine.tensorrt import collecting_logger

logger = logging.getLogger("crossrt")

TIMINGS = Path("~/.cache/crossrt/timings")


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """How an engine is built.

    `workspace` is the most device memory, in bytes, that a kernel may use while it runs; `optimization_level`, 0 to 5, how
    long kernels are looked for, TensorRT's own default without. `refittable` leaves the weights replaceable;
    `hardware_compatible` runs on every GPU from Ampere on, `version_compatible` on later TensorRTs of the same major
    version; both are slower. `timing_cache` is a file that keeps what was measured of kernels, for the next build;
    TensorRT-RTX measures none.
    """

    workspace: int = 4 << 30
    optimization_level: int | None = None
    refittable: bool = False
    hardware_compatible: bool = False
    version_compatible: bool = False
    timing_cache: Path | None = None

    def __post_init__(self) -> None:
        if self.workspace < 1:
            raise OptionError(f"workspace={self.workspace}: give bytes, at least 1")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise OptionError(f"optimization_level={self.optimization_level}: give 0 (fast build) to 5 (fast engine)")


def engine_from_onnx(
    onnx: bytes | Path, profiles: Sequence[Profile], *, library: str = "tensorrt", options: BuildOptions | None = None
) -> bytes:
    """Build an engine of an ONNX model, given as bytes or as a file with its weights beside it, and return its plan.

    FP16 and INT8 come from the file: its types and its Q/DQ nodes. A profile's shapes are those of every input, rows and
    tokens. `library` is `tensorrt`, which needs a GPU, or `tensorrt_rtx`, which builds without one. Raises BackendError,
    naming the node and its operator, for a model that TensorRT does not take.
    """
    options = options or BuildOptions()
    if not profiles:
        raise OptionError("an engine needs at least one profile")
    tensorrt = importlib.import_module(library)
    log = collecting_logger(tensorrt)
    builder = tensorrt.Builder(log)
    network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = tensorrt.OnnxParser(network, log)
    parsed = parser.parse(onnx) if isinstance(onnx, bytes) else parser.parse_from_file(str(onnx))
    if not parsed:
        said = "\n  ".join(_described(parser.get_error(number)) for number in range(parser.num_errors))
        raise BackendError(f"{library} {tensorrt.__version__} does not take this model:\n  {said}")
    config = _config(tensorrt, builder, options)
    for wanted in profiles:
        profile = builder.create_optimization_profile()
        for number in range(network.num_inputs):
            profile.set_shape(network.get_input(number).name, wanted.min, wanted.opt, wanted.max)
        if config.add_optimization_profile(profile) < 0:
            raise log.error(f"{library} refused the profile {wanted}")
    cache = options.timing_cache if library == "tensorrt" else None
    if cache is not None:
        use_timings(config, cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise log.error(f"{library} {tensorrt.__version__} found no engine for this model")
    if cache is not None:
        keep_timings(config, cache)
    return bytes(plan)


def _described(error: Any) -> str:
    node = f"node {error.node_name()!r} ({error.node_operator()}): " if error.node_operator() else ""
    return f"{node}{error.desc()}"


def _config(tensorrt: Any, builder: Any, options: BuildOptions) -> Any:
    config = builder.create_builder_config()
    config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, options.workspace)
    config.profiling_verbosity = tensorrt.ProfilingVerbosity.DETAILED
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.refittable:
        config.set_flag(tensorrt.BuilderFlag.REFIT)
    if options.version_compatible:
        config.set_flag(tensorrt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible:
        config.hardware_compatibility_level = tensorrt.HardwareCompatibilityLevel.AMPERE_PLUS
    return config


def use_timings(config: Any, file: Path) -> None:
    """Give the builder what earlier builds measured. What it cannot use, of another GPU say, is as good as nothing."""
    try:
        content = file.expanduser().read_bytes()
    except OSError:
        content = b""
    timings = config.create_timing_cache(content) or config.create_timing_cache(b"")
    if not config.set_timing_cache(timings, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def keep_timings(config: Any, file: Path) -> None:
    """Write what this build has measured, whole or not at all. A cache that cannot be written is done without."""
    file = file.expanduser()
    partial = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(bytes(config.get_timing_cache().serialize()))
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        logger.info("TensorRT's timings are not kept in %s (%s)", file, error)
