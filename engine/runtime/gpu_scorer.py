"""`GpuScorer`: computes requests on one or several GPUs."""

import contextlib
import logging
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock, RLock, get_ident

import numpy as np
import numpy.typing as npt

from ..backends.gpu_executor import GpuExecutor
from ..batching.batch import Batch
from ..bundle.bundle import Bundle
from ..closable import Closable
from ..errors import BackendError, ShapeError
from ..hardware.cpus import usable_cpus
from ..process.forks import keep_for_ever
from ..selection.execution_config import GpuConfig
from ..text.encoded_pairs import EncodedPairs
from .fair_queue import FairQueue, WaitingBatch, cancel
from .gpu_lane import GpuLane
from .gpu_pipeline import GpuBatch, GpuPipeline
from .pending import Pending, submitted

logger = logging.getLogger("crossrt")


class GpuScorer(Closable):
    """Owns the executors and lanes of one or several devices. Any number of threads may submit requests, which take turns.

    `GpuPipeline` computes the batches. One thread at a time drives it. Usually that is the scorer's worker, so that the caller
    can tokenize its next chunk meanwhile. With `inline` it is the caller's thread, which saves two thread switches. A scorer that
    is garbage-collected without `close` also frees everything.

    CUDA does not survive a fork: a forked process must open the model itself.
    """

    first_chunk = 1024  # a few full batches

    def __init__(self, bundle: Bundle, config: GpuConfig, executors: Sequence[GpuExecutor]) -> None:
        """Allocate all memory. The scorer owns the executors, and closes them even if this raises.

        Raises BackendError, with the amount needed, if a device has too little memory, and if the executors take batches of
        different shapes.
        """
        self.config = config
        self.tokenizing_threads = usable_cpus()
        self._bundle = bundle
        self._layout = executors[0].layout
        self._batch_cost = max(executor.batch_cost for executor in executors)
        self._devices: list[list[GpuLane]] = [[] for _ in executors]
        self._lock, self._computing = RLock(), Lock()
        """`_lock` guards submitting and closing. `_computing` is held by the thread that drives the pipeline."""
        self._owner: int | None = None
        """Id of the thread that drives the pipeline."""
        self._free_when_computed = False
        """Set when `close` was called from a signal handler of the thread that drives the pipeline."""
        self._queue: FairQueue[GpuBatch] = FairQueue()
        self._pipeline = GpuPipeline(self._devices, self._queue)
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
    def max_length(self) -> int:
        """Tokens of the longest pair that the engines take."""
        return self._layout.max_length

    def submit(self, pairs: EncodedPairs, *, batch_size: int, inline: bool = False, priority: int = 0) -> Pending:
        """See `Scorer.submit`. Batches are as large as the layout allows; `batch_size` has no effect."""
        # Checked before taking the lock, which a thread of the parent may have held at the fork.
        if os.getpid() != self._process:
            raise BackendError(
                f"this model was opened on {self.config.device} before the process forked, and CUDA does not come along: "
                "open it in each process that scores"
            )
        longest = int(pairs.lengths.max()) if len(pairs) else 0
        if longest > self.max_length:
            raise ShapeError(
                f"a pair of {longest} tokens, and this engine takes up to {self.max_length}: "
                f"set max_length={self.max_length}, or build the engine for longer pairs"
            )
        logits = np.empty((len(pairs), self._bundle.manifest.labels), dtype=np.float32)
        batches = self._batches(pairs, logits)
        with self._lock:
            self.check_open()
            self._queue.add(batches, priority=priority)
            if not inline:
                self._drive_in_worker(batches)
        if inline:
            self._drive_here(batches)
        return Pending([batch.future for batch in batches], [batch.tokens for batch in batches], logits)

    def run(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Compute one padded batch; its padding is removed first. See `Session.run`."""
        return self.submit(batch.pairs(), batch_size=len(batch.rows)).wait()

    def close(self) -> None:
        """Cancel the batches that wait, wait for those that are being computed, then free everything.

        May be called again, from any thread. A signal handler in the thread that drives the pipeline cannot wait for that thread.
        Everything is then freed later: when the thread's request is done, or all requests if the thread is the worker.
        """
        if os.getpid() != self._process:  # without the locks, which threads of the parent may have held at the fork
            self._free()
            return
        with self._lock:
            self._closed = True
        if self._owner == get_ident():
            self._free_when_computed = True
            return
        self._queue.cancel()
        self._worker.shutdown(cancel_futures=True)
        with self._computing:  # waits for a thread that drives the pipeline for its own request
            self._finish_and_free()

    def _batches(self, pairs: EncodedPairs, logits: npt.NDArray[np.float32]) -> list[WaitingBatch[GpuBatch]]:
        lengths = pairs.lengths
        parts = self._layout.split(lengths, batch_cost=self._batch_cost, shares=len(self._devices))
        futures: list[Future[int]] = [Future() for _ in parts]
        return [
            WaitingBatch(
                work=GpuBatch(pairs, rows, logits), tokens=int(lengths[rows].sum()), future=future, request=futures
            )
            for rows, future in zip(parts, futures, strict=True)
        ]

    def _drive_in_worker(self, batches: Sequence[WaitingBatch[GpuBatch]]) -> None:
        """Let the worker compute the waiting batches. Each request submits this, so that none is left when the worker stops."""
        try:
            submitted(self._worker, self._drive)
        except BaseException:
            cancel(batch.future for batch in batches)
            raise

    def _drive_here(self, batches: Sequence[WaitingBatch[GpuBatch]]) -> None:
        """Compute until the batches are done. If another thread drives the pipeline, leave them to the worker."""
        if not self._computing.acquire(blocking=False):
            self._drive_in_worker(batches)
            return
        try:
            self._step_until(lambda: all(batch.future.done() for batch in batches))
        except BaseException:
            cancel(batch.future for batch in batches)
            raise
        finally:
            self._computing.release()

    def _drive(self) -> None:
        """Compute all waiting batches."""
        with self._computing:
            self._step_until(lambda: False)

    def _step_until(self, done: Callable[[], bool]) -> None:
        """Compute until `done`, or until nothing waits. Called by the thread that holds `_computing`."""
        if not self._free.alive:  # closed meanwhile, and `close` has cancelled the waiting batches
            return
        self._owner = get_ident()
        try:
            while not done() and self._pipeline.step():
                pass
        finally:
            self._owner = None
            if self._free_when_computed:
                self._queue.cancel()
                self._finish_and_free()

    def _finish_and_free(self) -> None:
        """Wait for the batches that have begun, which may belong to other threads' requests, and free everything."""
        while self._free.alive and self._pipeline.step():
            pass
        self._free()


def _free(
    process: int, worker: ThreadPoolExecutor, devices: Sequence[Sequence[GpuLane]], executors: Sequence[GpuExecutor]
) -> None:
    """Free everything that a scorer owns, once no thread uses it. If one part fails to close, the rest is still freed."""
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
