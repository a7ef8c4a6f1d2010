"""TensorRT engines, loaded and run: TensorRT 8.6 to 11, and TensorRT-RTX, which has the same names."""

import hashlib
import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .bundle import Bundle
from .cuda import Cuda
from .engine_file import EngineFile, Profile, Shape, profile_for
from .errors import BackendError, BundleError
from .lattice import Lattice

LANES = 3
"""Batches on their way on each device: one is copied up, one computed, one copied down."""
GRAPHS = 64
"""Graphs kept by a lane. They are small, a few hundred kilobytes each."""


class TensorRtExecutor:
    """See `Executor`. Ask the driver before you open one: without, TensorRT's runtime takes the process down."""

    lanes = LANES
    graphs = GRAPHS

    def __init__(self, bundle: Bundle, file: EngineFile, cuda: Cuda) -> None:
        """Load an engine of the bundle.

        Raises BundleError, before TensorRT sees it, for an engine that is not byte for byte what the manifest says, since
        TensorRT takes the process down with it; BackendError, with what TensorRT said, when it cannot be loaded.
        """
        path = bundle.path / file.file
        plan = checked_plan(bundle, file)
        self.cuda = cuda
        tensorrt = importlib.import_module(file.library)
        self._log = collecting_logger(tensorrt)
        self._runtime = tensorrt.Runtime(self._log)
        if file.options.get("version_compatible"):
            self._runtime.engine_host_code_allowed = True  # such a plan brings TensorRT's own lean runtime along
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise self._log.error(f"{path} cannot be loaded by {file.library} {tensorrt.__version__}")
        self._profiles = file.profiles
        self.lattice = Lattice([profile.max for profile in file.profiles])
        names = [self._engine.get_tensor_name(number) for number in range(self._engine.num_io_tensors)]
        dtypes = {name: np.dtype(tensorrt.nptype(self._engine.get_tensor_dtype(name))) for name in names}
        self.output = dtypes.pop("logits")
        self.inputs: Mapping[str, np.dtype[Any]] = dtypes

    def context(self, stream: int) -> "TensorRtContext":
        """See `Executor.context`."""
        context = self._engine.create_execution_context()
        if context is None:
            free, _ = self.cuda.memory()
            # The older name is a 32-bit size, and gone in TensorRT 11.
            newer = getattr(self._engine, "device_memory_size_v2", None)
            needed = self._engine.device_memory_size if newer is None else newer
            raise self._log.error(
                f"an execution context needs {needed / 1e6:,.0f} MB of device memory, and {free / 1e6:,.0f} MB "
                "are free: close what else uses the device, or build the engine with smaller profiles, by --tokens or "
                "--max-length of crossrt engines"
            )
        return TensorRtContext(context, stream, self._profiles, self._log)

    def close(self) -> None:
        """See `Executor.close`."""
        self._engine = self._runtime = None


class TensorRtContext:
    """See `Context`."""

    def __init__(self, context: Any, stream: int, profiles: Sequence[Profile], log: Any) -> None:
        self._context = context
        self._stream = stream
        self._profiles = profiles
        self._log = log
        self._profile: int | None = None

    def enqueue(self, shape: Shape, addresses: Mapping[str, int]) -> None:
        """See `Context.enqueue`."""
        profile = profile_for(self._profiles, shape)
        done = profile == self._profile or self._context.set_optimization_profile_async(profile, self._stream)
        self._profile = profile
        for name, address in addresses.items():
            done = done and (name == "logits" or self._context.set_input_shape(name, shape))
            done = done and self._context.set_tensor_address(name, address)
        if not (done and self._context.execute_async_v3(self._stream)):
            raise self._log.error(f"TensorRT refused a batch of {shape[0]} x {shape[1]} tokens in profile {profile}")

    def close(self) -> None:
        """See `Context.close`."""
        self._context = None


def checked_plan(bundle: Bundle, file: EngineFile) -> bytes:
    """Return an engine's bytes. Raises BundleError when they are not those that the manifest knows."""
    path = bundle.path / file.file
    plan = path.read_bytes()
    if hashlib.sha256(plan).hexdigest() != bundle.sha256(file.file):
        raise BundleError(
            f"{path} was altered: its sha256 is not the manifest's; build it again with: crossrt engines {bundle.path} "
            f"--precision {file.precision}"
        )
    return plan


def collecting_logger(tensorrt: Any) -> Any:
    """Return a logger of this TensorRT module whose `error(message)` makes a BackendError of what TensorRT has said.

    TensorRT tells a failure by returning nothing, and the reason to its logger alone.
    """

    class Logger(tensorrt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.said: list[str] = []
            self.warned: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (tensorrt.ILogger.ERROR, tensorrt.ILogger.INTERNAL_ERROR):
                self.said.append(message)
            elif severity == tensorrt.ILogger.WARNING:
                self.warned = [*self.warned[-4:], message]

        def error(self, message: str) -> BackendError:
            said = self.said or self.warned  # 8.6 tells of a missing driver in a warning
            self.said, self.warned = [], []
            return BackendError(f"{message}\n  TensorRT says: " + ("\n  ".join(said) or "nothing"))

    return Logger()
