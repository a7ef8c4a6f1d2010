"""Native sessions: the native kernels for FP32, BF16 and INT8, on processors with AVX512.

The kernels (`native/`) are C++, compiled when crossrt is installed. They compute pairs without padding, in memory that they
take when a session opens.
"""

import ctypes
import queue
import threading
import weakref
from functools import cache

import numpy as np
import numpy.typing as npt

from ..batching.batch import Batch
from ..bundle.bundle import Bundle
from ..bundle.native_weights import ACTIVATIONS, NativeModel
from ..errors import BackendError, InputError
from ..kernels.library import loaded
from ..precision import Precision
from ..text.encoded_pairs import EncodedPairs
from .base import check_length
from .registry import native_kernels, why_not_native

INTERFACE = 1
"""Of the library's functions: one more with each change of what they take (`INTERFACE` in native/encoder.h)."""
BITS = {"int8": 8, "bf16": 16, "fp32": 32}
"""How the kernels number precisions."""


@cache
def _library() -> ctypes.CDLL:
    file = native_kernels()
    library = None if file is None else loaded(file, "crossrt_interface", INTERFACE)
    if library is None:
        raise BackendError(f"the backend native cannot run here: {file} is not of this crossrt; install crossrt again")
    pointer, integer = ctypes.c_void_p, ctypes.c_int32
    library.crossrt_open.restype = library.crossrt_memory.restype = pointer
    library.crossrt_open.argtypes = [pointer, ctypes.c_float, pointer]
    library.crossrt_memory.argtypes = [pointer, integer]
    library.crossrt_close.argtypes = library.crossrt_free.argtypes = [pointer]
    library.crossrt_encode.restype = integer
    library.crossrt_encode.argtypes = [pointer, pointer, ctypes.c_int64, *[pointer] * 5]
    return library


class NativeSession:
    """A bundle's native file. Up to `streams` batches are computed at once, each by `threads`; more of them wait."""

    backend = "native"
    device = "cpu"

    def __init__(self, bundle: Bundle, *, precision: Precision, streams: int, threads: int = 1) -> None:
        """Map the weights, take memory for `streams` batches, and start the threads that help those who call.

        Raises BackendError where the kernels cannot run, and BundleError for a file that is not theirs.
        """
        why = why_not_native(precision)
        if why:
            raise BackendError(f"the backend native cannot run here in {precision.value}: {why}; use another backend")
        self.precision = precision
        self.threads = threads
        self._bundle = bundle
        file = bundle.native_file(precision)
        model = NativeModel.open(file)
        model.check_belongs(file, bundle.manifest, precision)
        sizes = model.sizes
        self._labels = sizes.labels
        numbers = (ctypes.c_int32 * 13)(
            *(sizes.hidden, sizes.heads, sizes.head, sizes.intermediate, sizes.layers, sizes.types, sizes.vocab),
            *(sizes.positions, sizes.labels, sizes.dense, ACTIVATIONS.index(sizes.activation), BITS[sizes.precision]),
            -1 if sizes.padding is None else sizes.padding,
        )
        addresses = (ctypes.c_void_p * len(model.arrays))(*(array.ctypes.data for array in model.arrays))
        library = _library()
        self._model = model  # the kernels compute from its arrays
        self._encoder = library.crossrt_open(numbers, sizes.epsilon, addresses)
        memories = [library.crossrt_memory(self._encoder, threads) for _ in range(streams)] if self._encoder else []
        self._free = weakref.finalize(self, _free, library, self._encoder, memories)
        self._free.atexit = False  # other threads may still compute
        if not self._encoder or not all(memories):
            self._free()
            raise BackendError(f"there is not enough memory for {streams} batches by {threads} threads; use fewer")
        self._memories: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        """Those that no thread computes in; None once the session is closed."""
        for memory in memories:
            self._memories.put(memory)
        self._streams = streams
        self._closing = threading.Lock()

    def run(self, batch: Batch) -> npt.NDArray[np.float32]:
        """See `Session.run`. Raises ShapeError for padding that is not at the right, and InputError as `score` does."""
        check_length(batch, self._bundle, self.precision)
        pairs = batch.pairs()
        return self.score(pairs, np.arange(len(pairs)), batch.shape[1])

    def score(self, pairs: EncodedPairs, rows: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.float32]:
        """See `Session.score`. Raises InputError for a pair without tokens, or longer than the model's positions, or of ids
        or types that the model does not have."""
        arrays = (rows, pairs.offsets, pairs.ids, pairs.type_ids)
        logits = np.empty((len(rows), self._labels), dtype=np.float32)
        memory = self._memories.get()
        try:
            if memory is None:
                raise BackendError("this session is closed; open the bundle again")
            addresses = [*(each.ctypes.data for each in arrays), logits.ctypes.data]
            wrong = _library().crossrt_encode(self._encoder, memory, len(rows), *addresses)
        finally:
            self._memories.put(memory)
        if wrong == 2:
            raise BackendError("there is not enough memory for this batch; use a smaller batch_size")
        if wrong:
            raise InputError(
                "the model cannot score this batch: it has a pair without tokens, one longer than the model's positions, or "
                "token ids or types that the model does not have"
            )
        return logits

    def close(self) -> None:
        """See `Session.close`. Waits for the batches that are being computed."""
        with self._closing:
            if self._free.alive:
                for _ in range(self._streams):
                    self._memories.get()
                self._free()
                self._memories.put(None)


def _free(library: ctypes.CDLL, encoder: int | None, memories: list[int | None]) -> None:
    for memory in memories:
        library.crossrt_free(memory)
    library.crossrt_close(encoder)
