"""`Pending`: a request that is being computed; `submitted`: hands a batch to the threads of a scorer."""

from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from ..errors import BackendError

P = ParamSpec("P")
T = TypeVar("T")


class Pending:
    """A request that is being computed; `CrossEncoder.submit` returns it.

    Used by one thread at a time, which need not be the one that submitted the request. A request that nobody waits for is
    computed all the same.
    """

    def __init__(self, futures: Sequence[Future[int]], logits: npt.NDArray[np.float32]) -> None:
        """Take a future per batch, whose result is its number of rows, and the array that the batches write into."""
        self._futures = futures
        self._logits = logits
        self._cancelled = False

    def wait(self, progress: Callable[[int], object] = lambda rows: None) -> npt.NDArray[np.float32]:
        """Wait for all batches and return the raw logits float32 [n, labels], in the order of the pairs.

        `progress` is called with the number of rows of each finished batch, in the thread that waits. May be called again; it
        then returns the same array. When a batch fails, the batches that have not begun are cancelled and the error of the
        first failed batch is raised. Raises BackendError when another thread closes the model before all batches have begun,
        and after `cancel`.
        """
        try:
            for future in self._futures:
                progress(future.result())
        except CancelledError as error:
            if self._cancelled:
                raise BackendError("this request was cancelled; submit it again") from error
            raise BackendError("this model was closed while a request waited; open the bundle again") from error
        except BaseException:
            self.cancel()
            raise
        return self._logits

    def cancel(self) -> None:
        """Cancel the batches that have not begun, and wait for those that have. Raises none of their errors.

        The model stays open for other requests.
        """
        self._cancelled = True
        for future in self._futures:
            future.cancel()
        for future in self._futures:
            if not future.cancelled():
                future.exception()


def submitted(
    executor: ThreadPoolExecutor, function: Callable[P, T], *arguments: P.args, **keywords: P.kwargs
) -> Future[T]:
    """Submit a call to a scorer's executor. Raises BackendError, saying what to do, where no thread can take it."""
    try:
        return executor.submit(function, *arguments, **keywords)
    except RuntimeError as error:
        # When the main thread has returned, Python shuts down all executors, though other threads still run.
        if "shutdown" in str(error):
            raise BackendError(
                "this process is ending, and nothing can be scored any more: its main thread has returned. Let the main "
                "thread wait for the threads that score, with Thread.join() or by leaving their executor's `with` block"
            ) from error
        raise BackendError(
            f"no thread could be started to score with ({error}): the system's limit is reached (ulimit -u, or the "
            "container's limit of processes). Raise it, or open the model with fewer threads"
        ) from error
