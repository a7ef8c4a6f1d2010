"""`CpuWorkers`: threads that compute the batches of requests in parallel, in the order of a `FairQueue`."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias, TypeVar

from ..hardware.cpus import CORES
from .fair_queue import FairQueue, WaitingBatch, cancel
from .pending import submitted

T = TypeVar("T")
CpuBatch: TypeAlias = WaitingBatch[Callable[[], int]]
"""A batch whose work computes it and returns its number of rows."""


class CpuWorkers:
    """`count` threads, each of which computes one batch at a time on `processors` processors. Any number of threads may submit.

    A thread first waits for its processors, and then takes the batch whose turn it is. So the order also holds while other
    models of the process use the processors.
    """

    def __init__(self, count: int, processors: int) -> None:
        self.processors = processors
        self._count = count
        self._queue: FairQueue[Callable[[], int]] = FairQueue()
        self._executor = ThreadPoolExecutor(count, thread_name_prefix="crossrt")
        self._lock = threading.Lock()
        """Guards `_computing`, the number of calls of `_compute_batches` that have not ended."""
        self._computing = 0

    @property
    def empty(self) -> bool:
        """Whether no batch waits."""
        return self._queue.empty

    def submit(self, batches: Sequence[CpuBatch], *, priority: int = 0) -> None:
        """Compute the batches of a request. If no thread can be started, cancels them and raises BackendError."""
        self._queue.add(batches, priority=priority)
        try:
            with self._lock:
                for _ in range(min(self._count - self._computing, len(batches))):
                    submitted(self._executor, self._compute_batches)
                    self._computing += 1
        except BaseException:
            cancel(batch.future for batch in batches)
            raise

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Call a function in one of the threads, as soon as one has no batch to compute. Raises as `submit` does."""
        return submitted(self._executor, function)

    def close(self) -> None:
        """Cancel the batches that wait, and wait for those that are being computed."""
        self._queue.cancel()
        self._executor.shutdown(cancel_futures=True)

    def _compute_batches(self) -> None:
        """Compute batches until none waits."""
        while True:
            if not self._compute_next():
                with self._lock:
                    if self._queue.empty:  # otherwise a request came just now, and `submit` relied on this call
                        self._computing -= 1
                        return

    def _compute_next(self) -> bool:
        """Compute the next batch that waits; return False if none does. If it fails, cancel the rest of its request."""
        batch: CpuBatch | None = None
        try:
            with CORES.reserved(self.processors):
                batch = self._queue.next()
                if batch is None:
                    return False
                rows = batch.work()
        except BaseException as error:
            if batch is None:
                raise
            batch.fail(error)
        else:
            batch.future.set_result(rows)  # only once the processors are free: the waiting thread may want all of them
        finally:
            batch = None  # breaks a cycle: the error refers to this frame, and the batch to the error
        return True
