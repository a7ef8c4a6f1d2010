"""`Pending`: a request that is being computed; and how its batches are handed to threads."""

from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from ..errors import BackendError

P = ParamSpec("P")
T = TypeVar("T")


class Pending:
    """A request that is being computed."""

    def __init__(self, futures: Sequence[Future[int]], logits: npt.NDArray[np.float32]) -> None:
        self._futures = futures
        self._logits = logits

    def wait(self, progress: Callable[[int], object] = lambda rows: None) -> npt.NDArray[np.float32]:
        """Return the logits float32 [n, labels], in the order of the pairs.

        `progress` is told the rows of each batch that is done. Raises the first batch's error, after the others were
        called off, and BackendError when the model is closed by another thread before all have begun.
        """
        try:
            for future in self._futures:
                progress(future.result())
        except CancelledError as error:
            raise BackendError("this model was closed while a request waited; open the bundle again") from error
        except BaseException:
            self.cancel()
            raise
        return self._logits

    def cancel(self) -> None:
        """Call off the batches that have not begun, and wait for those that have."""
        for future in self._futures:
            future.cancel()
        for future in self._futures:
            if not future.cancelled():
                future.exception()


def submitted(
    executor: ThreadPoolExecutor, function: Callable[P, T], *arguments: P.args, **keywords: P.kwargs
) -> Future[T]:
    """Have the threads of an open model's executor call a function. Raises BackendError where no thread can."""
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
