"""ONNX Runtime sessions."""

import numpy as np
import numpy.typing as npt

from ..batching.batch import Batch
from ..bundle.bundle import Bundle
from ..errors import BackendError, BundleError
from ..precision import Precision
from ..process.telemetry import telemetry_off
from .base import Padding, check_length

with telemetry_off():
    import onnxruntime


class OnnxRuntimeSession(Padding):
    """The bundle's ONNX file on ONNX Runtime's CPU provider, whose session serves any number of threads at once."""

    backend = "onnxruntime"
    device = "cpu"

    def __init__(self, bundle: Bundle, *, precision: Precision, threads: int) -> None:
        self.precision = precision
        self.threads = threads
        self._bundle = bundle
        options = session_options(threads)
        path = bundle.model_file(precision)
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no base class but Exception
            raise BundleError(
                f"{path} cannot be opened by ONNX Runtime {onnxruntime.__version__} ({error}); "
                "check the bundle with: crossrt info --verify"
            ) from error
        self._session: onnxruntime.InferenceSession | None = session
        self._inputs = tuple(field.name for field in session.get_inputs())
        unknown = set(self._inputs) - {"input_ids", "attention_mask", "token_type_ids"}
        if unknown:
            raise BundleError(f"{path} wants the inputs {sorted(unknown)}, which a cross-encoder does not have")

    def run(self, batch: Batch) -> npt.NDArray[np.float32]:
        """See `Session.run`."""
        session = self._session
        if session is None:
            raise BackendError("this session is closed; open the bundle again")
        check_length(batch, self._bundle, self.precision)
        feeds = {name: getattr(batch, name) for name in self._inputs}
        try:
            return np.asarray(session.run(["logits"], feeds)[0], dtype=np.float32)
        except Exception as error:  # see above
            raise BackendError(f"ONNX Runtime cannot compute this batch with {self._bundle.path} ({error})") from error

    def close(self) -> None:
        """See `Session.close`."""
        self._session = None


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """Return the options that every session of crossrt runs with."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Idle threads sleep: a reranker that waits for its next request must not hold two processors at 100 %.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Without VNNI, MLAS sums pairs of 8-bit products in 16 bits, which can saturate; this chooses the exact kernels,
    # and changes nothing where there is VNNI.
    options.add_session_config_entry("session.x64quantprecision", "1")
    # Shapes change with every batch, so memory patterns are never reused and only grow the arena (issue 29538).
    options.enable_mem_pattern = False
    return options
