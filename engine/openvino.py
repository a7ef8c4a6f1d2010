"""OpenVINO sessions."""

import queue

import numpy as np
import numpy.typing as npt
import openvino

from .bundle import Bundle
from .errors import BackendError, BundleError
from .plan import Batch
from .precision import Precision
from .session import check_length

KERNELS = 256
"""Compiled kernels kept, a few for each shape that was met: OpenVINO keeps 5,000, which grows with every new shape."""


class OpenVinoSession:
    """The bundle's ONNX file on OpenVINO's CPU plugin. Up to `streams` threads compute at once; more of them wait."""

    backend = "openvino"
    device = "cpu"

    def __init__(self, bundle: Bundle, *, precision: Precision, threads: int, streams: int) -> None:
        self.precision = precision
        self.threads = threads
        self._bundle = bundle
        core = openvino.Core()
        if precision is Precision.BF16:
            capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
            if "BF16" not in capabilities:
                raise BackendError(
                    "bf16 is not what this processor computes in (it has no AVX512-BF16 or AMX): "
                    f"OpenVINO lists {', '.join(capabilities)}; use fp32 or int8"
                )
        path = bundle.model_file(Precision.FP32 if precision is Precision.BF16 else precision)
        properties = {
            # Explicit, because OpenVINO would choose BF16 by itself wherever the processor has it.
            "INFERENCE_PRECISION_HINT": "bf16" if precision is Precision.BF16 else "f32",
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": threads * streams,
            # Pinned, two models of one process would both sit on the first processors.
            "ENABLE_CPU_PINNING": False,
            "CPU_RUNTIME_CACHE_CAPACITY": KERNELS,
        }
        try:
            compiled = core.compile_model(core.read_model(path), "CPU", properties)
        except Exception as error:  # OpenVINO raises bare RuntimeError, for files and for properties
            raise BundleError(
                f"{path} cannot be opened by OpenVINO {openvino.__version__} ({error}); "
                "check the bundle with: crossrt info --verify"
            ) from error
        self._inputs = tuple(field.any_name for field in compiled.inputs)
        unknown = set(self._inputs) - {"input_ids", "attention_mask", "token_type_ids"}
        if unknown:
            raise BundleError(f"{path} wants the inputs {sorted(unknown)}, which a cross-encoder does not have")
        self._requests: queue.SimpleQueue[openvino.InferRequest] = queue.SimpleQueue()
        for _ in range(streams):
            self._requests.put(compiled.create_infer_request())
        self._closed = False

    def run(self, batch: Batch) -> npt.NDArray[np.float32]:
        """See `Session.run`."""
        if self._closed:
            raise BackendError("this session is closed; open the bundle again")
        check_length(batch, self._bundle, self.precision)
        request = self._requests.get()
        try:
            # The batch's arrays outlive the call, so they need no copy; the output does, the next batch overwrites it.
            outputs = request.infer({name: getattr(batch, name) for name in self._inputs}, share_inputs=True)
            return np.array(outputs["logits"], dtype=np.float32)
        finally:
            self._requests.put(request)

    def close(self) -> None:
        """See `Session.close`."""
        self._closed = True
        self._requests = queue.SimpleQueue()
