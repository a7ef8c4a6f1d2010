"""`Pending`: a request that is being computed; `submitted`: hands work to the threads of a scorer."""

import threading
from bisect import bisect_left
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from functools import partial
from itertools import accumulate
from typing import ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from ..errors import BackendError

P = ParamSpec("P")
T = TypeVar("T")


class Pending:
    """A request that is being computed; `CrossEncoder.submit` returns it.

    One thread at a time may call `wait`; it need not be the one that submitted the request. Any thread may call the other
    methods, even while another one waits. A request that nobody waits for is computed anyway.
    """

    def __init__(self, futures: Sequence[Future[int]], tokens: Sequence[int], logits: npt.NDArray[np.float32]) -> None:
        """`futures` has one future per batch, in the order in which they begin, and `tokens` the tokens of each batch.

        The result of a future is the number of rows that its batch has written into `logits`.
        """
        self._futures = futures
        self._tokens = [0, *accumulate(tokens)]
        self._logits = logits
        self._cancelled = False

    @property
    def waiting_tokens(self) -> int:
        """Tokens of the batches that have not begun; 0 once the request is cancelled. A server can use it to bound its queue."""
        begun = bisect_left(self._futures, True, key=_waits)
        return self._tokens[-1] - self._tokens[begun]

    def wait(self, progress: Callable[[int], object] = lambda rows: None) -> npt.NDArray[np.float32]:
        """Wait for all batches and return the raw logits, float32 [n, labels], in the order of the pairs.

        `progress` is called with the number of rows of each finished batch, in the thread that waits. May be called again; it
        then returns the same array. If a batch fails, the batches that have not begun are cancelled and the error of the first
        failed batch is raised. Raises BackendError if another thread closes the model before all batches have begun, and after
        `cancel`.
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

    def add_done_callback(self, function: Callable[["Pending"], object]) -> None:
        """Call `function` with this request once all of its batches are finished, failed or cancelled.

        `wait` then returns or raises at once. The function is called in the thread that ended the last batch, or in this thread
        if the request is already done. It delays what that thread computes next, so it should only notify another thread, as
        `loop.call_soon_threadsafe(...)` does. It must not close the model. `concurrent.futures` logs its errors.
        """
        left = len(self._futures) + 1
        call: Callable[[], object] | None = partial(function, self)
        lock = threading.Lock()

        def one_less(_: object) -> None:
            nonlocal left, call
            with lock:
                left -= 1
                if left:
                    return
                ready, call = call, None  # the futures keep this function alive, which must not keep the request alive
            if ready is not None:
                ready()

        registered: Future[int] = Future()
        for future in (*self._futures, registered):
            future.add_done_callback(one_less)
        registered.set_result(0)

    def cancel(self, *, wait: bool = True) -> None:
        """Cancel the batches that have not begun, and wait for those that have, unless `wait` is False.

        Raises none of their errors. The model stays open for other requests.
        """
        self._cancelled = True
        for future in self._futures:
            future.cancel()
        if wait:
            for future in self._futures:
                if not future.cancelled():
                    future.exception()


def _waits(future: Future[int]) -> bool:
    return not (future.running() or future.done())


def submitted(
    executor: ThreadPoolExecutor, function: Callable[P, T], *arguments: P.args, **keywords: P.kwargs
) -> Future[T]:
    """Submit a call to a scorer's executor. Raises BackendError, saying what to do, if no thread can take it."""
    try:
        return executor.submit(function, *arguments, **keywords)
    except RuntimeError as error:
        # When the main thread has returned, Python shuts down all executors, even while other threads run.
        if "shutdown" in str(error):
            raise BackendError(
                "this process is ending, and nothing can be scored any more: its main thread has returned. Let the main "
                "thread wait for the threads that score, with Thread.join() or by leaving their executor's `with` block"
            ) from error
        raise BackendError(
            f"no thread could be started to score with ({error}): the system's limit is reached (ulimit -u, or the "
            "container's limit of processes). Raise it, or open the model with fewer threads"
        ) from error
