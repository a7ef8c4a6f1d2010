"""ONNX Runtime on a GPU: the bundle's ONNX file in the memory and on the stream of a lane."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from ..batching.padded_layout import PaddedLayout
from ..batching.shape_buckets import ShapeBuckets
from ..bundle.bundle import Bundle
from ..bundle.profiles import Shape
from ..cuda.cuda import Cuda
from ..errors import BackendError, BundleError
from ..precision import Precision
from ..process.telemetry import telemetry_off
from .onnxruntime_cpu import session_options

with telemetry_off():
    import onnxruntime

TOKENS = 32_768
"""Tokens of the largest batch, with padding; ONNX Runtime takes any shape, but memory is finite."""
GRAPHS = 256
"""Graphs kept, which is most of the shapes that there are: 43 requests of 1 x 100 have 52. See docs/decisions/0015."""
LANES = 2
"""Each has a session with weights of its own. Measured: a large request takes 0.81 of the time by one, one of 1 x 100 0.88."""
BATCH_COST = 2048
"""Tokens, by graphs: 2,260 of a MiniLM-L-6 on an H200, 1,370 of BERT-base; without graphs 17,500 and more."""


class OnnxRuntimeExecutor:
    """See `GpuExecutor`. A session belongs to the stream it was opened with, so each lane has one, with weights of its own.

    All contexts of a lane are its session, whose kernels keep nothing of a shape from one batch to the next. Its arena gives
    the same memory to every batch, graphs included, which is safe since they come one after the other; it never shrinks.
    """

    lanes = LANES
    graphs = GRAPHS
    workspace = 0  # it keeps an arena of its own
    batch_cost = BATCH_COST

    def __init__(self, bundle: Bundle, precision: Precision, cuda: Cuda, *, device: str = "cuda") -> None:
        """Open nothing yet; `context` does."""
        self.cuda = cuda
        self._device = device
        self._sessions: dict[int, tuple[Any, Callable[[], None] | None]] = {}
        """By stream, with what waits for the stream where the session computes on another."""
        self._path = bundle.model_file(precision, gpu=True, fused=True)
        inputs = {name: np.dtype(kind) for name, kind in bundle.manifest.inputs.items()}
        self.output = np.dtype(np.float32)
        lengths = [length for length in (64, 128, 256, 512) if length < bundle.manifest.max_positions]
        lengths.append(bundle.manifest.max_positions)
        buckets = ShapeBuckets([(max(1, TOKENS // length), length) for length in lengths])
        self.layout = PaddedLayout(buckets, inputs, bundle.manifest.pad_token_id)

    def context(self, stream: int, workspace: int) -> "OnnxRuntimeContext":
        """See `GpuExecutor.context`. Raises BackendError where ONNX Runtime would compute on the CPU instead."""
        if stream not in self._sessions:
            self._sessions[stream] = self._opened(stream)
        session, uploaded = self._sessions[stream]
        return OnnxRuntimeContext(session, self.layout.inputs, (self._device, self.cuda.ordinal), uploaded)

    def _opened(self, stream: int) -> tuple[Any, Callable[[], None] | None]:
        provider: Any = "CPUExecutionProvider"
        if self._device == "cuda":
            if hasattr(onnxruntime, "preload_dlls"):
                onnxruntime.preload_dlls()  # finds CUDA and cuDNN where torch or NVIDIA's wheels have put them
            provider = (
                "CUDAExecutionProvider",
                {
                    "device_id": self.cuda.ordinal,
                    "user_compute_stream": str(stream),
                    "use_tf32": "0",  # FP32 is FP32
                    "enable_skip_layer_norm_strict_mode": "1",  # statistics in FP32, as everywhere
                },
            )
        try:
            session = onnxruntime.InferenceSession(str(self._path), session_options(1), providers=[provider])
        except Exception as error:  # ONNX Runtime's exceptions share no base class but Exception
            raise BundleError(
                f"{self._path} cannot be opened by ONNX Runtime {onnxruntime.__version__} ({error}); "
                "check the bundle with: crossrt info --verify"
            ) from error
        if self._device == "cuda" and session.get_providers()[0] != "CUDAExecutionProvider":
            raise BackendError(
                f"ONNX Runtime {onnxruntime.__version__} found no CUDA libraries and would compute on the CPU: install "
                'onnxruntime-gpu with the CUDA and cuDNN it was made for, or use device="cpu"'
            )
        options = session.get_provider_options().get("CUDAExecutionProvider", {})
        if self._device == "cpu" or options.get("user_compute_stream") == str(stream):
            return session, None
        # It does not take the stream, says nothing, and computes on one of its own. Then both are waited for, and a wait cannot
        # be captured.
        return session, partial(self.cuda.synchronize, stream)

    def close(self) -> None:
        """See `GpuExecutor.close`."""
        self._sessions.clear()


class OnnxRuntimeContext:
    """See `GpuContext`. `uploaded` waits for the lane's stream, where the session computes on another."""

    def __init__(
        self,
        session: Any,
        inputs: Mapping[str, np.dtype[Any]],
        place: tuple[str, int],
        uploaded: Callable[[], None] | None,
    ) -> None:
        self._session = session
        self._inputs = inputs
        self._place = place
        self._uploaded = uploaded
        self._labels = int(session.get_outputs()[0].shape[1])
        self._options = onnxruntime.RunOptions()
        if uploaded is None:
            # The lane waits for its stream, once, when the logits are down.
            self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def enqueue(self, shape: Shape, addresses: Mapping[str, int]) -> None:
        """See `GpuContext.enqueue`."""
        binding = self._session.io_binding()
        for name, dtype in self._inputs.items():
            binding.bind_input(name, *self._place, dtype.type, shape, addresses[name])
        binding.bind_output("logits", *self._place, np.float32, (shape[0], self._labels), addresses["logits"])
        if self._uploaded is not None:
            self._uploaded()
        try:
            self._session.run_with_iobinding(binding, self._options)
        except Exception as error:
            raise BackendError(f"ONNX Runtime refused a batch of {shape[0]} x {shape[1]} tokens: {error}") from error

    def close(self) -> None:
        """See `GpuContext.close`."""
        self._session = None
