"""Builds TensorRT engines from ONNX files, with TensorRT 10.12 to 11 and TensorRT-RTX.

Networks are strongly typed: all types come from the file. What TensorRT 8.6 needs in addition is in `tensorrt8.py`.
"""

import importlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...engine.backends.tensorrt import collecting_logger
from ...engine.bundle.profiles import Profile
from ...engine.errors import BackendError, OptionError
from ...engine.files.publish import replaced
from . import tensorrt8
from .attention import keep_unfused

logger = logging.getLogger("crossrt")

TIMINGS = "timings"
"""The folder for timing caches, in the user's cache."""
PROGRESS_EVERY = 5.0
"""Minimum seconds between two reports of a build's progress."""

Progress = Callable[[str], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """How an engine is built.

    - `workspace`: maximum device memory, in bytes, that a kernel may use while it runs.
    - `optimization_level`: 0 to 5, how long TensorRT searches for kernels; None is TensorRT's default.
    - `refittable`: the weights can be replaced later.
    - `hardware_compatible`: the engine runs on every GPU from Ampere on, but slower.
    - `version_compatible`: the engine runs on later TensorRT versions with the same major version, but slower.
    - `unfused_attention`: for a TensorRT whose fused attention computes wrong scores; slower too.
    - `timing_cache`: a file that keeps the measured times of kernels for the next build. TensorRT-RTX does not measure.
    """

    workspace: int = 4 << 30
    optimization_level: int | None = None
    refittable: bool = False
    hardware_compatible: bool = False
    version_compatible: bool = False
    unfused_attention: bool = False
    timing_cache: Path | None = None

    def __post_init__(self) -> None:
        if self.workspace < 1:
            raise OptionError(f"workspace={self.workspace}: give bytes, at least 1")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise OptionError(f"optimization_level={self.optimization_level}: give 0 (fast build) to 5 (fast engine)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedNetwork:
    """A `network` that TensorRT has parsed, with the builder, parser and logger that must outlive it."""

    library: str
    tensorrt: Any
    log: Any
    builder: Any
    parser: Any
    network: Any

    @classmethod
    def of(cls, onnx: bytes | Path, *, library: str) -> "ParsedNetwork":
        """Parse a model. Raises BackendError, naming the node and its operator, if TensorRT does not accept it."""
        tensorrt = importlib.import_module(library)
        log = collecting_logger(tensorrt)
        try:
            builder = tensorrt.Builder(log)
        except TypeError as error:  # raised if no builder can be created
            raise log.error(f"{library} {tensorrt.__version__} cannot build here") from error
        old = tensorrt8.is_tensorrt8(tensorrt.__version__)
        if old:
            network = tensorrt8.create_network(tensorrt, builder)
        else:
            network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = tensorrt.OnnxParser(network, log)
        parsed = parser.parse(onnx) if isinstance(onnx, bytes) else parser.parse_from_file(str(onnx))
        if not parsed:
            said = _errors_of(parser, tensorrt8.described if old else _described)
            raise BackendError(f"{library} {tensorrt.__version__} does not take this model:\n  {said}")
        return cls(library=library, tensorrt=tensorrt, log=log, builder=builder, parser=parser, network=network)


def engine_from_onnx(
    onnx: bytes | Path,
    profiles: Sequence[Profile],
    *,
    library: str = "tensorrt",
    options: BuildOptions | None = None,
    progress: Progress | None = None,
) -> bytes:
    """Build an engine of an ONNX model, given as bytes or as a file with its weights beside it, and return its plan.

    FP16 and INT8 come from the types and the Q/DQ nodes of the file. A profile's shapes, rows and tokens, apply to every input.
    `library` is `tensorrt`, which needs a GPU, or `tensorrt_rtx`, which builds without one. `progress` is called every few
    seconds with the current stage, but not with TensorRT 8.6, which does not report it. Raises BackendError, naming the node and
    its operator, for a model that TensorRT does not accept.
    """
    options = options or BuildOptions()
    if not profiles:
        raise OptionError("an engine needs at least one profile")
    parsed = ParsedNetwork.of(onnx, library=library)
    tensorrt, builder, network, log = parsed.tensorrt, parsed.builder, parsed.network, parsed.log
    config = _config(tensorrt, builder, options)
    old = tensorrt8.is_tensorrt8(tensorrt.__version__)
    if old:
        tensorrt8.constrain(tensorrt, network, config)
    if options.unfused_attention:
        keep_unfused(network, tensorrt)
    for wanted in profiles:
        profile = builder.create_optimization_profile()
        for number in range(network.num_inputs):
            profile.set_shape(network.get_input(number).name, wanted.min, wanted.opt, wanted.max)
        if config.add_optimization_profile(profile) < 0:
            raise log.error(f"{library} refused the profile {wanted}")
    cache = options.timing_cache if library == "tensorrt" else None
    if cache is not None:
        use_timings(config, cache)
    monitor = None if progress is None or old else _monitor(tensorrt, progress)
    if monitor is not None:
        config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise log.error(f"{library} {tensorrt.__version__} found no engine for this model")
    if cache is not None:
        keep_timings(config, cache)
    return bytes(plan)


def refitted(plan: bytes, onnx: bytes | Path, *, library: str = "tensorrt") -> bytes:
    """Return the plan of a refittable engine with the weights of another ONNX model that has the same graph.

    Call `gpus` first, which initializes the driver: without a driver, TensorRT's runtime terminates the process. Raises
    BackendError, naming what is missing, for an engine that was not built as refittable, for a model with another graph, and for
    TensorRT before 10.
    """
    tensorrt = importlib.import_module(library)
    if not hasattr(tensorrt, "OnnxParserRefitter"):
        raise BackendError(
            f"{library} {tensorrt.__version__} cannot take weights from an ONNX file: build the engine again"
        )
    engine, log = _loaded(tensorrt, plan, library)
    if not engine.refittable:
        raise BackendError("the engine was not built to be refitted: build it again with --refittable")
    refitter = tensorrt.Refitter(engine, log)
    parser = tensorrt.OnnxParserRefitter(refitter, log)
    taken = parser.refit_from_bytes(onnx) if isinstance(onnx, bytes) else parser.refit_from_file(str(onnx))
    if not taken:
        raise BackendError(
            f"the engine does not take this model's weights; build one of its own:\n  {_errors_of(parser, _described)}"
        )
    missing = list(refitter.get_missing_weights())
    if missing:
        raise BackendError(
            f"{len(missing)} of the engine's weights are not in this model ({', '.join(missing[:5])}): it has another graph; "
            "build an engine of its own"
        )
    if not refitter.refit_cuda_engine():
        raise log.error("the engine's weights could not be replaced; build it again")
    return bytes(engine.serialize())


def layer_information(plan: bytes, *, library: str = "tensorrt") -> str:
    """Return TensorRT's description of an engine's layers as JSON. The driver must be initialized, as for `refitted`."""
    tensorrt = importlib.import_module(library)
    engine, _ = _loaded(tensorrt, plan, library)
    return str(engine.create_engine_inspector().get_engine_information(tensorrt.LayerInformationFormat.JSON))


def _loaded(tensorrt: Any, plan: bytes, library: str) -> tuple[Any, Any]:
    """Return an engine and the logger of its runtime. Raises BackendError with what the runtime logged."""
    log = collecting_logger(tensorrt)
    engine = tensorrt.Runtime(log).deserialize_cuda_engine(plan)
    if engine is None:
        raise log.error(f"the engine cannot be loaded by {library} {tensorrt.__version__}")
    return engine, log


def _errors_of(parser: Any, described: Callable[[Any], str]) -> str:
    return "\n  ".join(described(parser.get_error(number)) for number in range(parser.num_errors))


def _described(error: Any) -> str:
    node = f"node {error.node_name()!r} ({error.node_operator()}): " if error.node_operator() else ""
    return f"{node}{error.desc()}"


def _config(tensorrt: Any, builder: Any, options: BuildOptions) -> Any:
    config = builder.create_builder_config()
    config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, options.workspace)
    config.profiling_verbosity = tensorrt.ProfilingVerbosity.DETAILED
    config.clear_flag(tensorrt.BuilderFlag.TF32)  # on by default, but its mantissa has ten bits, and FP32's has 23
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.refittable:
        config.set_flag(tensorrt.BuilderFlag.REFIT)
    if options.version_compatible:
        config.set_flag(tensorrt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible:
        config.hardware_compatibility_level = tensorrt.HardwareCompatibilityLevel.AMPERE_PLUS
    return config


def _monitor(tensorrt: Any, progress: Progress) -> Any:
    """Return a TensorRT progress monitor that calls `progress`."""

    class Monitor(tensorrt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._steps: dict[str, int] = {}
            self._last = time.monotonic()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if time.monotonic() - self._last >= PROGRESS_EVERY:
                self._last = time.monotonic()
                progress(f"{phase_name.lower()}, {step + 1} of {self._steps.get(phase_name, step + 1)}")
            return True  # False would stop the build

    return Monitor()


def use_timings(config: Any, file: Path) -> None:
    """Give the builder the kernel timings of earlier builds. Unusable ones, such as those of another GPU, are ignored."""
    try:
        content = file.expanduser().read_bytes()
    except OSError:
        content = b""
    timings = config.create_timing_cache(content) or config.create_timing_cache(b"")
    if not config.set_timing_cache(timings, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def keep_timings(config: Any, file: Path) -> None:
    """Write the kernel timings of this build atomically. Errors of writing are only logged."""
    file = file.expanduser()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replaced(file) as opened:
            opened.write(bytes(config.get_timing_cache().serialize()))
    except OSError as error:
        logger.info("TensorRT's timings are not kept in %s (%s)", file, error)
