"""`NativeSession`: crossrt's own kernels in FP32, BF16 and INT8, on CPUs.

The kernels (engine/kernels/native/) are C++, compiled when crossrt is installed and called by ctypes. They compute pairs without
padding, in memory that a session allocates when it opens.
"""

import ctypes
import queue
import threading
import weakref

import numpy as np
import numpy.typing as npt

from ..batching.batch import Batch
from ..bundle.bundle import Bundle
from ..bundle.native_weights import ACTIVATIONS, ARCHITECTURES, POOLINGS, ModelDims, NativeModel
from ..closable import CLOSED
from ..errors import BackendError, InputError
from ..kernels.support import kernel_library, native_kernels, why_not_native
from ..precision import Precision
from ..text.encoded_pairs import EncodedPairs
from .base import check_length

BITS = {"int8": 8, "bf16": 16, "fp32": 32}
"""`ModelDims.bits` in C++, by precision."""
OK, INVALID_INPUT, OUT_OF_MEMORY, WRONG_ARRAYS = range(4)
"""What `crossrt_open` and `crossrt_score` return (`Status` in native/c_api.h)."""


class _ModelDims(ctypes.Structure):
    """`ModelDims` of native/model_dims.h, field by field."""

    _fields_ = (
        ("hidden", ctypes.c_int32),
        ("heads", ctypes.c_int32),
        ("head", ctypes.c_int32),
        ("intermediate", ctypes.c_int32),
        ("layers", ctypes.c_int32),
        ("types", ctypes.c_int32),
        ("vocab", ctypes.c_int32),
        ("positions", ctypes.c_int32),
        ("labels", ctypes.c_int32),
        ("dense", ctypes.c_int32),
        ("activation", ctypes.c_int32),
        ("bits", ctypes.c_int32),
        ("padding", ctypes.c_int32),
        ("architecture", ctypes.c_int32),
        ("pooling", ctypes.c_int32),
        ("window", ctypes.c_int32),
        ("head_norm", ctypes.c_int32),
        ("embedding", ctypes.c_int32),
        ("hidden_activation", ctypes.c_int32),
        ("activation_balance", ctypes.c_int32),
        ("epsilon", ctypes.c_float),
    )

    @classmethod
    def of(cls, dims: ModelDims) -> "_ModelDims":
        encoded = {
            "activation": ACTIVATIONS.index(dims.activation),
            "bits": BITS[dims.precision],
            "padding": -1 if dims.padding is None else dims.padding,
            "architecture": ARCHITECTURES.index(dims.architecture),
            "pooling": POOLINGS.index(dims.pooling),
            "embedding": dims.embedding or 0,
            "hidden_activation": ACTIVATIONS.index(dims.hidden_activation),
        }
        plain = {name: getattr(dims, name) for name, _ in cls._fields_ if name not in encoded}
        return cls(**plain, **encoded)


class NativeSession:
    """A bundle's native weights, opened. See `Session`.

    Up to `streams` calls compute at once, each with `threads` threads; further calls wait. Any number of threads may call.
    """

    backend = "native"
    device = "cpu"

    def __init__(self, bundle: Bundle, *, precision: Precision, streams: int, threads: int = 1) -> None:
        """Map the weights, and allocate workspaces with their threads for `streams` batches.

        Raises BackendError where the kernels cannot run or memory is short, and BundleError for a file that is not this bundle's
        native weights.
        """
        kernels = native_kernels(precision)
        if kernels is None:
            why = why_not_native(precision)
            raise BackendError(f"the backend native cannot run here in {precision.value}: {why}; use another backend")
        self.precision = precision
        self.threads = threads
        self._bundle = bundle
        file = bundle.native_file(precision)
        model = NativeModel.open(file)
        model.check_belongs(file, bundle.manifest, precision)
        self._labels = model.dims.labels
        addresses = (ctypes.c_void_p * len(model.arrays))(*(array.ctypes.data for array in model.arrays))
        self._library = library = kernel_library(kernels)
        self._model = model  # the kernels read its arrays
        encoder = ctypes.c_void_p()
        status = library.crossrt_open(
            ctypes.byref(_ModelDims.of(model.dims)), addresses, len(addresses), ctypes.byref(encoder)
        )
        if status == WRONG_ARRAYS:
            raise BackendError(
                f"the backend native cannot run here: {kernels} is not of this crossrt; install crossrt again"
            )
        self._encoder = encoder.value
        workspaces = (
            [library.crossrt_new_workspace(self._encoder, threads) for _ in range(streams)] if self._encoder else []
        )
        self._finalizer = weakref.finalize(self, _free, library, self._encoder, workspaces)
        self._finalizer.atexit = False  # other threads may still compute
        if not self._encoder or not all(workspaces):
            self._finalizer()
            raise BackendError(f"there is not enough memory for {streams} batches by {threads} threads; use fewer")
        self._workspaces: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        """Workspaces that are free. After `close` it holds None, which every call finds and puts back."""
        for workspace in workspaces:
            self._workspaces.put(workspace)
        self._streams = streams
        self._closing = threading.Lock()

    def run(self, batch: Batch) -> npt.NDArray[np.float32]:
        """See `Session.run`. Raises ShapeError for padding that is not at the right, and InputError as `score` does."""
        check_length(batch, self._bundle, self.precision)
        pairs = batch.pairs()
        return self.score(pairs, np.arange(len(pairs)), batch.shape[1])

    def score(self, pairs: EncodedPairs, rows: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.float32]:
        """See `Session.score`. Raises InputError for a pair without tokens, for one longer than the model's positions, and for
        ids or types that the model does not have."""
        arrays = (rows, pairs.offsets, pairs.ids, pairs.type_ids)
        logits = np.empty((len(rows), self._labels), dtype=np.float32)
        workspace = self._workspaces.get()
        try:
            if workspace is None:
                raise BackendError(CLOSED)
            addresses = [*(array.ctypes.data for array in arrays), logits.ctypes.data]
            status = self._library.crossrt_score(self._encoder, workspace, len(rows), *addresses)
        finally:
            self._workspaces.put(workspace)
        if status == OUT_OF_MEMORY:
            raise BackendError("there is not enough memory for this batch; use a smaller batch_size")
        if status == INVALID_INPUT:
            raise InputError(
                "the model cannot score this batch: it has a pair without tokens, one longer than the model's positions, or "
                "token ids or types that the model does not have"
            )
        return logits

    def close(self) -> None:
        """See `Session.close`. Waits for calls that are computing."""
        with self._closing:
            if self._finalizer.alive:
                for _ in range(self._streams):
                    self._workspaces.get()
                self._finalizer()
                self._workspaces.put(None)


def _free(library: ctypes.CDLL, encoder: int | None, workspaces: list[int | None]) -> None:
    for workspace in workspaces:
        library.crossrt_free_workspace(workspace)
    library.crossrt_close(encoder)
