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
from ..bundle.native_weights import NativeModel
from ..closable import CLOSED
from ..errors import BackendError, InputError
from ..kernels.encoder import INVALID_INPUT, OUT_OF_MEMORY, open_encoder
from ..kernels.support import kernel_library, native_kernels, why_not_native
from ..precision import Precision
from ..text.encoded_pairs import EncodedPairs
from .base import check_length


class NativeSession:
    """A bundle's native weights, opened. See `Session`.

    Up to `streams` calls compute at once, each with `threads` threads; further calls wait. Any number of threads may call.
    """

    backend = "native"
    device = "cpu"

    def __init__(self, bundle: Bundle, *, precision: Precision, streams: int, threads: int = 1) -> None:
        """Map the weights, and allocate workspaces with their threads for `streams` batches.

        Raises BackendError if the kernels cannot run or memory is short, and BundleError for a file that is not this bundle's
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
        self._library = library = kernel_library(kernels)
        self._model = model  # the kernels read its arrays
        self._encoder = open_encoder(library, kernels, model.dims, model.arrays)
        workspaces = (
            [library.crossrt_new_workspace(self._encoder, threads) for _ in range(streams)] if self._encoder else []
        )
        self._finalizer = weakref.finalize(self, _free, library, self._encoder, workspaces)
        self._finalizer.atexit = False  # other threads may still compute
        if not self._encoder or not all(workspaces):
            self._finalizer()
            raise BackendError(f"there is not enough memory for {streams} batches by {threads} threads; use fewer")
        self._workspaces: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        """Free workspaces. After `close` the queue holds a single None, which every call finds and puts back."""
        for workspace in workspaces:
            self._workspaces.put(workspace)
        self._streams = streams
        self._closing = threading.Lock()

    def run(self, batch: Batch) -> npt.NDArray[np.float32]:
        """See `Session.run`. Raises ShapeError for padding that is not on the right, and InputError as `score` does."""
        check_length(batch, self._bundle, self.precision)
        pairs = batch.pairs()
        return self.score(pairs, np.arange(len(pairs), dtype=np.int64), batch.shape[1])

    def score(self, pairs: EncodedPairs, rows: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.float32]:
        """See `Session.score`.

        Raises InputError for a pair without tokens or longer than the model's positions, and for ids or types that the model
        does not have.
        """
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
