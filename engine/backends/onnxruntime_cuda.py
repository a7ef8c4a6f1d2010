"""ONNX Runtime on a GPU: computes the bundle's ONNX file in the memory and on the stream of a lane."""

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
from .onnxruntime_cpu import session_options, unicode_name

with telemetry_off():
    import onnxruntime

TOKENS = 32_768
"""Tokens of the largest batch, with padding. ONNX Runtime takes any shape; this bounds the memory."""
GRAPHS = 256
"""CUDA graphs kept per lane. Most workloads have fewer shapes: 43 requests of 1 x 100 pairs have 52. See docs/decisions/0015."""
LANES = 2
"""Each lane has a session with its own copy of the weights. Two lanes take 0.81 of the time of one lane for a large request, and
0.88 for one of 1 x 100 pairs."""
BATCH_COST = 2048
"""Tokens. Measured on an H200 with graphs: 2,260 for MiniLM-L-6 and 1,370 for BERT-base. Without graphs: 17,500 and more."""


class OnnxRuntimeExecutor:
    """See `GpuExecutor`. ONNX Runtime binds a session to one stream, so each lane has a session with its own copy of the weights.

    All contexts of a lane share its session, whose kernels keep no state of a shape between batches. The session's arena hands
    the same memory to every batch and every graph. That is safe, because a lane computes them one after the other. The arena
    never shrinks.
    """

    lanes = LANES
    graphs = GRAPHS
    workspace = 0  # ONNX Runtime allocates from its own arena
    batch_cost = BATCH_COST

    def __init__(self, bundle: Bundle, precision: Precision, cuda: Cuda, *, device: str = "cuda") -> None:
        """Open no session yet: `context` opens one per stream. Tests use the device `cpu`."""
        self.cuda = cuda
        self._device = device
        self._sessions: dict[int, tuple[Any, Callable[[], None] | None]] = {}
        """Sessions by stream, each with the function that waits for that stream if the session uses another one."""
        self._path = bundle.model_file(precision, gpu=True, fused=True)
        inputs = {name: np.dtype(kind) for name, kind in bundle.manifest.inputs.items()}
        self.output = np.dtype(np.float32)
        lengths = [length for length in (64, 128, 256, 512) if length < bundle.manifest.max_positions]
        lengths.append(bundle.manifest.max_positions)
        buckets = ShapeBuckets([(max(1, TOKENS // length), length) for length in lengths])
        self.layout = PaddedLayout(buckets, inputs, bundle.manifest.pad_token_id)

    def context(self, stream: int, workspace: int) -> "OnnxRuntimeContext":
        """See `GpuExecutor.context`. Raises BackendError if ONNX Runtime would fall back to the CPU."""
        if stream not in self._sessions:
            self._sessions[stream] = self._open(stream)
        session, wait_for_upload = self._sessions[stream]
        return OnnxRuntimeContext(session, self.layout.inputs, (self._device, self.cuda.ordinal), wait_for_upload)

    def _open(self, stream: int) -> tuple[Any, Callable[[], None] | None]:
        provider: Any = "CPUExecutionProvider"
        if self._device == "cuda":
            if hasattr(onnxruntime, "preload_dlls"):
                onnxruntime.preload_dlls()  # finds CUDA and cuDNN where torch or NVIDIA's wheels have put them
            provider = (
                "CUDAExecutionProvider",
                {
                    "device_id": self.cuda.ordinal,
                    "user_compute_stream": str(stream),
                    "use_tf32": "0",  # TF32 would round FP32 inputs to 10 bits of mantissa
                    "enable_skip_layer_norm_strict_mode": "1",  # LayerNorm statistics in FP32, as in the other backends
                },
            )
        name = unicode_name(self._path)
        try:
            session = onnxruntime.InferenceSession(name, session_options(1), providers=[provider])
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
        # This version of ONNX Runtime silently ignored the stream and computes on its own. The host must then wait for both
        # streams, and such batches cannot be captured.
        return session, partial(self.cuda.synchronize, stream)

    def close(self) -> None:
        """See `GpuExecutor.close`."""
        self._sessions.clear()


class OnnxRuntimeContext:
    """See `GpuContext`. `wait_for_upload` waits for the lane's stream; None if the session computes on that stream."""

    def __init__(
        self,
        session: Any,
        inputs: Mapping[str, np.dtype[Any]],
        place: tuple[str, int],
        wait_for_upload: Callable[[], None] | None,
    ) -> None:
        self._session = session
        self._inputs = inputs
        self._place = place
        self._wait_for_upload = wait_for_upload
        self._labels = int(session.get_outputs()[0].shape[1])
        self._options = onnxruntime.RunOptions()
        if wait_for_upload is None:
            # The lane synchronizes its stream once, after the download of the logits.
            self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def enqueue(self, shape: Shape, addresses: Mapping[str, int]) -> None:
        """See `GpuContext.enqueue`."""
        binding = self._session.io_binding()
        for name, dtype in self._inputs.items():
            binding.bind_input(name, *self._place, dtype.type, shape, addresses[name])
        binding.bind_output("logits", *self._place, np.float32, (shape[0], self._labels), addresses["logits"])
        if self._wait_for_upload is not None:
            self._wait_for_upload()
        try:
            self._session.run_with_iobinding(binding, self._options)
        except Exception as error:
            raise BackendError(f"ONNX Runtime refused a batch of {shape[0]} x {shape[1]} tokens: {error}") from error

    def close(self) -> None:
        """See `GpuContext.close`."""
        self._session = None
