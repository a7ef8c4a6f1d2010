"""`GpuScorer`: the engines and lanes of one or several GPUs, and the requests that they compute."""

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
from ..errors import BackendError, ShapeError
from ..hardware.cpus import usable_cpus
from ..process.forks import keep_for_ever
from ..text.encoded_pairs import EncodedPairs
from .execution_config import GpuConfig
from .gpu_lane import GpuLane
from .pending import Pending, submitted

logger = logging.getLogger("crossrt")


class GpuScorer:
    """Owns the engines and lanes of one or several devices; any number of threads may start requests.

    Requests are computed one after the other, by a thread of the pipeline's own, so that whoever started one can
    tokenize the next meanwhile, or by the caller's, which saves two changes of threads. A request's batches go to the lanes
    in turn; nobody waits for the device but to use a lane again, and once at the end. Dropped without `close`, it frees
    everything too.

    A process that is forked must open the model itself: CUDA does not come along.
    """

    first_chunk = 1024  # some full batches

    def __init__(self, bundle: Bundle, config: GpuConfig, executors: Sequence[GpuExecutor]) -> None:
        """Take all memory, and the executors, which are closed on an error too.

        Raises BackendError, with how much is needed, when a device has too little.
        """
        self.config = config
        self.tokenizing_threads = usable_cpus()
        self._bundle = bundle
        self._layout = executors[0].layout
        self._batch_cost = max(executor.batch_cost for executor in executors)
        self._devices: list[list[GpuLane]] = [[] for _ in executors]
        self._lock, self._computing = RLock(), Lock()
        """Of starting and closing, and of the lanes."""
        self._owner: int | None = None
        """The thread that holds the lanes."""
        self._closed = self._closing = False
        self._process = os.getpid()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="crossrt-gpu")
        self._free = weakref.finalize(self, _free, self._process, self._worker, self._devices, executors)
        self._free.atexit = False  # the driver frees what a process held, and may be gone already
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

    def submit(self, pairs: EncodedPairs, *, batch_size: int, inline: bool = False) -> Pending:
        """See `Scorer.start`. BatchLayout are as large as the engine takes; `batch_size` is for CPUs."""
        if os.getpid() != self._process:  # asked before the lock, which a thread of the parent's may have held
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
        logits = np.empty((len(pairs), self._bundle.manifest.labels), dtype=np.float32)
        with self._lock:
            if self._closed:
                raise BackendError("this model is closed; open the bundle again")
            if not inline:
                return Pending([submitted(self._worker, self._score, pairs, logits)], logits)
        done: Future[int] = Future()
        done.set_result(self._score(pairs, logits))
        return Pending([done], logits)

    def run(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Compute one batch that was padded elsewhere; its padding is taken off again. See `Session.run`."""
        return self.submit(batch.pairs(), batch_size=len(batch.rows)).wait()

    def close(self) -> None:
        """Wait for what is being computed, then free everything, of a lost device too. May be called again.

        From a signal's handler, in a thread that scores, it cannot wait: then all is freed when that request ends.
        """
        if os.getpid() != self._process:  # whose threads may have held the locks
            self._free()
            return
        with self._lock:
            self._closed = True
        if self._owner == get_ident():
            self._closing = True
            return
        self._worker.shutdown(cancel_futures=True)
        with self._computing:  # in a caller's thread
            self._free()

    def _score(self, pairs: EncodedPairs, logits: npt.NDArray[np.float32]) -> int:
        with self._computing:
            if not self._free.alive:  # closed since
                raise BackendError("this model is closed; open the bundle again")
            self._owner = get_ident()
            try:
                return self._scored(pairs, logits)
            finally:
                self._owner = None
                if self._closing:
                    self._free()

    def _scored(self, pairs: EncodedPairs, logits: npt.NDArray[np.float32]) -> int:
        lengths = pairs.lengths
        loads = [0] * len(self._devices)
        # Each request begins at the first lane: few that come again and again meet the graphs of those before.
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
    """Free a pipeline that nobody uses any more, all of it, whatever fails on the way."""
    if os.getpid() != process:
        keep_for_ever((devices, executors))
        return
    worker.shutdown(wait=False)  # it has nothing to do, and may be the thread that this runs in
    for executor, lanes in zip(executors, devices, strict=True):
        closing: tuple[GpuLane | GpuExecutor, ...] = (*lanes, executor)
        for each in closing:
            with _told(), executor.cuda.current():
                each.close()
        with _told():
            executor.cuda.close()


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """A device that was lost frees nothing, and keeps nobody from closing the rest."""
    try:
        yield
    except BackendError as error:
        logger.warning("while closing a model on a GPU: %s", error)
