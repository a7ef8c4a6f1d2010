"""Loads and runs TensorRT engines, of TensorRT 8.6 to 11 and of TensorRT-RTX, which has the same API."""

import contextlib
import hashlib
import importlib
import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..batching.padded_layout import PaddedLayout
from ..batching.shape_buckets import ShapeBuckets
from ..bundle.bundle import Bundle
from ..bundle.engine_file import EngineFile
from ..bundle.profiles import Profile, Shape, profile_for
from ..cuda.cuda import Cuda, laid_out
from ..errors import BackendError, BundleError

DTYPES = {"FLOAT": np.float32, "HALF": np.float16, "INT32": np.int32, "INT64": np.int64}
"""TensorRT's name of a type -> NumPy's. TensorRT's own `nptype` fails on some versions of NumPy."""
LANES = 3
"""Batches in flight on each device: one is uploaded, one computed, one downloaded."""
GRAPHS = 64
"""CUDA graphs kept per lane. Each has an execution context; all of them share the lane's workspace."""
BATCH_COST = 2048
"""Tokens. Measured: 4,300 for MiniLM-L-6 on an H200 with TensorRT 8.6 at optimization level 1. Later versions are unmeasured."""


class TensorRtExecutor:
    """See `GpuExecutor`. Check with `gpus()` first that there is a driver: without one, TensorRT's runtime aborts the process."""

    lanes = LANES
    graphs = GRAPHS
    batch_cost = BATCH_COST

    def __init__(self, bundle: Bundle, file: EngineFile, cuda: Cuda) -> None:
        """Load an engine of the bundle. Loading runs code in the engine, so load trusted engines only: see docs/security.md.

        Raises BundleError for an engine whose sha256 is not the manifest's. This is checked before TensorRT reads the engine,
        because TensorRT aborts the process on a damaged one. Raises BackendError, with TensorRT's messages, if it cannot be
        loaded.
        """
        path = bundle.folder / file.file
        plan = checked_plan(bundle, file)
        self.cuda = cuda
        tensorrt = importlib.import_module(file.library)
        if file.library == "tensorrt_rtx":
            # TensorRT-RTX allocates while it computes, unless an engine was built not to, and that cannot be captured.
            self.graphs = 0
        self._log = collecting_logger(tensorrt)
        self._runtime = tensorrt.Runtime(self._log)
        if file.options.get("version_compatible"):
            self._runtime.engine_host_code_allowed = True  # such an engine contains TensorRT's lean runtime
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise self._log.error(f"{path} cannot be loaded by {file.library} {tensorrt.__version__}")
        strategies = getattr(tensorrt, "ExecutionContextAllocationStrategy", None)
        # TensorRT 8.6 has no strategies but a method for contexts without memory.
        self._strategy = None if strategies is None else strategies.USER_MANAGED
        self._own_memory = int(
            self._engine.device_memory_size if strategies is None else self._engine.device_memory_size_v2
        )
        self._profiles = file.profiles
        names = [self._engine.get_tensor_name(number) for number in range(self._engine.num_io_tensors)]
        dtypes = {name: np.dtype(DTYPES[self._engine.get_tensor_dtype(name).name]) for name in names}
        self.output = dtypes.pop("logits")
        # An engine with unfused attention (`BuildOptions.unfused_attention`) has the softmax of each layer as an output. It
        # needs memory, although nothing reads it.
        unread = {
            name: max_bytes(tuple(self._engine.get_tensor_shape(name)), dtypes.pop(name), file.profiles)
            for name in [*dtypes]
            if name not in bundle.manifest.inputs
        }
        places, self.workspace = laid_out({"engine": self._own_memory} | unread)
        self._unread = {name: places[name] for name in unread}
        self.layout = PaddedLayout(
            ShapeBuckets([profile.max for profile in file.profiles]), dtypes, bundle.manifest.pad_token_id
        )

    def context(self, stream: int, workspace: int) -> "TensorRtContext":
        """See `GpuExecutor.context`."""
        if self._strategy is None:
            context = self._engine.create_execution_context_without_device_memory()
        else:
            context = self._engine.create_execution_context(self._strategy)
        if context is None:
            free, _ = self.cuda.memory()
            raise self._log.error(
                f"TensorRT made no execution context, with {free / 1e6:,.0f} MB of device memory free: close what else uses "
                "the device, or build the engine with smaller profiles, by --tokens or --max-length of crossrt engines"
            )
        if self._strategy is None:
            context.device_memory = workspace
        else:
            context.set_device_memory(workspace, self._own_memory)
        for name, place in self._unread.items():
            if not context.set_tensor_address(name, workspace + place):
                raise self._log.error(f"TensorRT takes no memory for its output {name}")
        return TensorRtContext(context, stream, self._profiles, self._log)

    def close(self) -> None:
        """See `GpuExecutor.close`."""
        self._engine = self._runtime = None


class TensorRtContext:
    """See `GpuContext`."""

    def __init__(self, context: Any, stream: int, profiles: Sequence[Profile], log: Any) -> None:
        self._context = context
        self._stream = stream
        self._profiles = profiles
        self._log = log
        self._profile: int | None = None

    def enqueue(self, shape: Shape, addresses: Mapping[str, int]) -> None:
        """See `GpuContext.enqueue`."""
        profile = profile_for(self._profiles, shape)
        if not (
            self._choose(profile) and self._bind(shape, addresses) and self._context.execute_async_v3(self._stream)
        ):
            raise self._log.error(f"TensorRT refused a batch of {shape[0]} x {shape[1]} tokens in profile {profile}")

    def _choose(self, profile: int) -> bool:
        if profile != self._profile:
            with contextlib.suppress(RuntimeError):  # the bindings raise where the C++ API returns false
                if self._context.set_optimization_profile_async(profile, self._stream):
                    self._profile = profile
        return profile == self._profile

    def _bind(self, shape: Shape, addresses: Mapping[str, int]) -> bool:
        return all(
            (name == "logits" or self._context.set_input_shape(name, shape))
            and self._context.set_tensor_address(name, address)
            for name, address in addresses.items()
        )

    def close(self) -> None:
        """See `GpuContext.close`."""
        self._context = None


def max_bytes(shape: Sequence[int], dtype: np.dtype[Any], profiles: Sequence[Profile]) -> int:
    """Return the bytes of a tensor in the largest batch. A size of -1 is rows on the first axis, tokens elsewhere."""
    return dtype.itemsize * max(
        math.prod(size if size >= 0 else profile.max[place > 0] for place, size in enumerate(shape))
        for profile in profiles
    )


def checked_plan(bundle: Bundle, file: EngineFile) -> bytes:
    """Return an engine's bytes. Raises BundleError if their sha256 is not the manifest's."""
    path = bundle.folder / file.file
    plan = path.read_bytes()
    if hashlib.sha256(plan).hexdigest() != bundle.sha256(file.file):
        raise BundleError(
            f"{path} was altered: its sha256 is not the manifest's; build it again with: crossrt engines "
            f"{shlex.quote(str(bundle.path))} --precision {file.precision}"
        )
    return plan


def collecting_logger(tensorrt: Any) -> Any:
    """Return a logger of this TensorRT module. Its `error(message)` returns a BackendError with the messages logged so far.

    On a failure TensorRT returns None, and reports the reason only to its logger.
    """

    class Logger(tensorrt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (tensorrt.ILogger.ERROR, tensorrt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)
            elif severity == tensorrt.ILogger.WARNING:
                self.warnings = [*self.warnings[-4:], message]

        def error(self, message: str) -> BackendError:
            messages = self.errors or self.warnings  # 8.6 reports a missing driver as a warning
            self.errors, self.warnings = [], []
            return BackendError(f"{message}\n  TensorRT says: " + ("\n  ".join(messages) or "nothing"))

    return Logger()
