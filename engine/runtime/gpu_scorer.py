"""`GpuScorer`: computes requests on one or several GPUs."""

import contextlib
import logging
import os
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle
from threading import Lock, RLock, get_ident

import numpy as np
import numpy.typing as npt

from ..backends.gpu_executor import GpuExecutor
from ..batching.batch import Batch
from ..bundle.bundle import Bundle
from ..closable import CLOSED, Closable
from ..errors import BackendError, ShapeError
from ..hardware.cpus import usable_cpus
from ..process.forks import keep_for_ever
from ..text.encoded_pairs import EncodedPairs
from .execution_config import GpuConfig
from .gpu_lane import GpuLane
from .pending import Pending, submitted

logger = logging.getLogger("crossrt")


class GpuScorer(Closable):
    """Owns the executors and lanes of one or several devices. Any number of threads may submit requests.

    Requests are computed one after the other: by the scorer's worker thread, so that the caller can tokenize its next chunk
    meanwhile, or with `inline` in the caller's thread, which saves two thread switches. The batches of a request go to the
    lanes in turn. The host waits for a device only before it reuses a lane, and at the end of the request. A scorer that is
    garbage-collected without `close` frees everything too.

    CUDA does not survive a fork: a forked process must open the model itself.
    """

    first_chunk = 1024  # a few full batches

    def __init__(self, bundle: Bundle, config: GpuConfig, executors: Sequence[GpuExecutor]) -> None:
        """Allocate all memory. The scorer owns the executors, and closes them on an error too.

        Raises BackendError, with the amount needed, when a device has too little memory, and when the executors take batches of
        different shapes.
        """
        self.config = config
        self.tokenizing_threads = usable_cpus()
        self._bundle = bundle
        self._layout = executors[0].layout
        self._batch_cost = max(executor.batch_cost for executor in executors)
        self._devices: list[list[GpuLane]] = [[] for _ in executors]
        self._lock, self._computing = RLock(), Lock()
        """`_lock` guards submitting and closing. `_computing` is held by the thread that uses the lanes."""
        self._owner: int | None = None
        """Id of the thread that uses the lanes."""
        self._free_when_computed = False
        """Set when `close` was called from a signal handler of the thread that computes."""
        self._process = os.getpid()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="crossrt-gpu")
        self._free = weakref.finalize(self, _free, self._process, self._worker, self._devices, executors)
        self._free.atexit = False  # at exit the driver frees the process's memory, and may be unloaded already
        try:
            if any(executor.layout != self._layout for executor in executors):
                raise BackendError(
                    "the engines of the devices take different shapes; build them with the same profiles"
                )
            for executor, device in zip(executors, self._devices, strict=True):
                with executor.cuda.current():
                    for _ in range(executor.lanes):
                        device.append(GpuLane(executor, labels=bundle.manifest.labels))
        except BaseException:
            self._free()
            raise

    @property
    def longest(self) -> int:
        """Tokens of the longest pair that the engines take."""
        return self._layout.longest

    def submit(self, pairs: EncodedPairs, *, batch_size: int, inline: bool = False, priority: int = 0) -> Pending:
        """See `Scorer.submit`. Batches are as large as the layout allows; `batch_size` has no effect."""
        if (
            os.getpid() != self._process
        ):  # before taking the lock, which a thread of the parent may have held at the fork
            raise BackendError(
                f"this model was opened on {self.config.device} before the process forked, and CUDA does not come along: "
                "open it in each process that scores"
            )
        longest = int(pairs.lengths.max()) if len(pairs) else 0
        if longest > self.longest:
            raise ShapeError(
                f"a pair of {longest} tokens, and this engine takes up to {self.longest}: "
                f"set max_length={self.longest}, or build the engine for longer pairs"
            )
        tokens = [int(pairs.lengths.sum())]
        logits = np.empty((len(pairs), self._bundle.manifest.labels), dtype=np.float32)
        with self._lock:
            self.check_open()
            if not inline:
                return Pending([submitted(self._worker, self._score, pairs, logits)], tokens, logits)
        done: Future[int] = Future()
        done.set_result(self._score(pairs, logits))
        return Pending([done], tokens, logits)

    def run(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Compute one padded batch; its padding is removed first. See `Session.run`."""
        return self.submit(batch.pairs(), batch_size=len(batch.rows)).wait()

    def close(self) -> None:
        """Wait for the requests that are being computed, then free everything. May be called again, from any thread.

        A signal handler that runs in the thread that computes cannot wait for it; then everything is freed when that request
        ends.
        """
        if os.getpid() != self._process:  # without the locks, which threads of the parent may have held at the fork
            self._free()
            return
        with self._lock:
            self._closed = True
        if self._owner == get_ident():
            self._free_when_computed = True
            return
        self._worker.shutdown(cancel_futures=True)
        with self._computing:  # waits for a request that is computed in a caller's thread
            self._free()

    def _score(self, pairs: EncodedPairs, logits: npt.NDArray[np.float32]) -> int:
        with self._computing:
            if not self._free.alive:  # closed between `submit` and here
                raise BackendError(CLOSED)
            self._owner = get_ident()
            try:
                return self._scored(pairs, logits)
            finally:
                self._owner = None
                if self._free_when_computed:
                    self._free()

    def _scored(self, pairs: EncodedPairs, logits: npt.NDArray[np.float32]) -> int:
        lengths = pairs.lengths
        loads = [0] * len(self._devices)
        # Each request begins at the first lane, so that small requests find the CUDA graphs of earlier small requests there.
        turns = [cycle(device) for device in self._devices]
        lanes = [lane for device in self._devices for lane in device]
        try:
            for rows in self._layout.split(lengths, batch_cost=self._batch_cost, shares=len(self._devices)):
                device = loads.index(min(loads))
                loads[device] += int(lengths[rows].sum())
                lane = next(turns[device])
                with lane.cuda.current():
                    lane.finish()
                    lane.begin(pairs, rows, logits)
            for lane in lanes:
                with lane.cuda.current():
                    lane.finish()
        except BaseException:
            for lane in lanes:
                with contextlib.suppress(BackendError), lane.cuda.current():
                    lane.abandon()
            raise
        return len(pairs)


def _free(
    process: int, worker: ThreadPoolExecutor, devices: Sequence[Sequence[GpuLane]], executors: Sequence[GpuExecutor]
) -> None:
    """Free everything that a scorer owns, once no thread uses it. A failure does not keep the rest from being freed."""
    if os.getpid() != process:
        keep_for_ever((devices, executors))
        return
    worker.shutdown(wait=False)  # it is idle, and may be the thread that runs this
    for executor, lanes in zip(executors, devices, strict=True):
        closing: tuple[GpuLane | GpuExecutor, ...] = (*lanes, executor)
        for each in closing:
            with _errors_logged(), executor.cuda.current():
                each.close()
        with _errors_logged():
            executor.cuda.close()


@contextlib.contextmanager
def _errors_logged() -> Iterator[None]:
    """Log a BackendError instead of raising it: a lost device frees nothing, and the others must still be freed."""
    try:
        yield
    except BackendError as error:
        logger.warning("while closing a model on a GPU: %s", error)
