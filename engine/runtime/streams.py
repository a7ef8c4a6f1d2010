"""`Streams`: threads that compute the batches of requests side by side; the requests take turns."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias, TypeVar

from ..hardware.cpus import CORES
from .pending import submitted
from .turns import Turns, WaitingBatch, cancel

T = TypeVar("T")
CpuBatch: TypeAlias = WaitingBatch[Callable[[], int]]
"""Its work computes the batch, and returns how many rows it has."""


class Streams:
    """`count` threads, each of which computes one batch at a time on `processors` processors. Any number of threads may submit.

    A thread first waits for its processors, and then takes the batch whose turn it is. So the order holds also while other
    models of the process use the processors.
    """

    def __init__(self, count: int, processors: int) -> None:
        self.processors = processors
        self._count = count
        self._turns: Turns[Callable[[], int]] = Turns()
        self._executor = ThreadPoolExecutor(count, thread_name_prefix="crossrt")
        self._lock = threading.Lock()
        """Guards `_computing`, the calls of `_compute_batches` that have not ended."""
        self._computing = 0

    @property
    def empty(self) -> bool:
        """Whether no batch waits."""
        return self._turns.empty

    def submit(self, batches: Sequence[CpuBatch], *, priority: int = 0) -> None:
        """Compute the batches of a request. Raises BackendError, and cancels them, where no thread can be started."""
        self._turns.add(batches, priority=priority)
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
        """Cancel the batches that wait, and wait for those that are computed."""
        self._turns.cancel()
        self._executor.shutdown(cancel_futures=True)

    def _compute_batches(self) -> None:
        """Compute batches for as long as any waits."""
        while True:
            if not self._compute_next():
                with self._lock:
                    if self._turns.empty:  # else a request came since, and `submit` counted on this call
                        self._computing -= 1
                        return

    def _compute_next(self) -> bool:
        """Compute the next batch, if one waits; where it fails, cancel those of its request that wait."""
        batch: CpuBatch | None = None
        try:
            with CORES.taken(self.processors):
                batch = self._turns.next()
                if batch is None:
                    return False
                rows = batch.work()
        except BaseException as error:
            if batch is None:
                raise
            batch.fail(error)
        else:
            batch.future.set_result(rows)  # only now that the processors are free: who waited may ask for all of them
        finally:
            batch = None  # the error refers to this frame, and the batch to the error
        return True
