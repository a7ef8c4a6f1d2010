"""ONNX Runtime sessions on a CPU."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..batching.batch import Batch
from ..bundle.bundle import Bundle
from ..closable import CLOSED
from ..errors import BackendError, BundleError
from ..precision import Precision
from ..process.telemetry import telemetry_off
from .base import PaddedSession, check_length

with telemetry_off():
    import onnxruntime


class OnnxRuntimeSession(PaddedSession):
    """The bundle's ONNX file on ONNX Runtime's CPU provider. Any number of threads may call at once."""

    backend = "onnxruntime"
    device = "cpu"

    def __init__(self, bundle: Bundle, *, precision: Precision, threads: int) -> None:
        """Load the model.

        Raises BundleError for a file that ONNX Runtime cannot open or that wants unknown inputs, and BackendError for a path that
        is not valid Unicode.
        """
        self.precision = precision
        self.threads = threads
        self._bundle = bundle
        options = session_options(threads)
        path = bundle.model_file(precision)
        name = unicode_name(path)
        try:
            session = onnxruntime.InferenceSession(name, options, providers=["CPUExecutionProvider"])
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
        session = self._session  # keeps it alive if another thread closes it meanwhile
        if session is None:
            raise BackendError(CLOSED)
        check_length(batch, self._bundle, self.precision)
        feeds = {name: getattr(batch, name) for name in self._inputs}
        try:
            return np.asarray(session.run(["logits"], feeds)[0], dtype=np.float32)
        except Exception as error:  # ONNX Runtime's exceptions share no base class but Exception
            raise BackendError(f"ONNX Runtime cannot compute this batch with {self._bundle.path} ({error})") from error

    def close(self) -> None:
        """See `Session.close`. ONNX Runtime frees its session when the last call with it returns."""
        self._closed = True
        self._session = None


def unicode_name(path: Path) -> str:
    """Return a path as text. Raises BackendError if it is not valid Unicode, which ONNX Runtime cannot open."""
    name = str(path)
    try:
        name.encode()
    except UnicodeEncodeError:
        raise BackendError(
            f"{path}: the name is not valid UTF-8, and ONNX Runtime cannot open such files; rename it, or use another backend"
        ) from None
    return name


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """Return the options of every ONNX Runtime session that crossrt opens."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Let idle threads sleep: a reranker that waits for its next request must not keep processors busy.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Without VNNI, MLAS adds pairs of 8-bit products in 16 bits, which can saturate. This option chooses kernels that do not
    # saturate; it has no effect on processors with VNNI.
    options.add_session_config_entry("session.x64quantprecision", "1")
    # Memory patterns are planned per shape. Shapes change with every batch, so patterns are never reused and only make the
    # arena grow (ONNX Runtime issue 29538).
    options.enable_mem_pattern = False
    return options
