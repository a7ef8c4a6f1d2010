"""`GpuPipeline`: keeps the lanes of one or several GPUs busy with the batches whose turn it is."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import BackendError
from ..text.encoded_pairs import EncodedPairs
from .fair_queue import FairQueue, WaitingBatch
from .gpu_lane import GpuLane


@dataclass(frozen=True, slots=True, eq=False)
class GpuBatch:
    """The `rows` of a request that make up a batch, int64 [batch], and where their `logits` go, float32 [n, labels]."""

    pairs: EncodedPairs
    rows: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float32]


class GpuPipeline:
    """Computes batches on the lanes of one or several devices. One thread at a time may call `step`.

    A batch is chosen only when the lane that will compute it is free. So a new request waits only for batches that have begun.
    The host waits for a device only before it uses a lane again, and when no batch waits. So the lanes stay busy from one request
    to the next.
    """

    def __init__(self, devices: Sequence[Sequence[GpuLane]], queue: FairQueue[GpuBatch]) -> None:
        self._devices = devices
        self._queue = queue
        self._under_way: dict[GpuLane, WaitingBatch[GpuBatch]] = {}
        """The batch that each busy lane computes, in the order in which they began."""
        self._tokens = [0] * len(devices)
        """Tokens that each device was given since the pipeline was last empty."""
        self._batches = [0] * len(devices)
        """Batches that each device was given since then."""

    def step(self) -> bool:
        """Begin the next batch or, if none waits, wait for the one that began first. Returns False if there is neither.

        The error of a batch goes to its request and does not affect others. Raises what interrupts the thread, such as
        KeyboardInterrupt; another thread may then continue.
        """
        if not self._under_way:
            self._start_anew()
        if self._queue.empty:
            return self._finish_first()
        device = self._tokens.index(min(self._tokens))
        lanes = self._devices[device]
        lane = lanes[self._batches[device] % len(lanes)]
        if lane in self._under_way:
            self._finish(lane)
        batch = self._queue.next()
        if batch is None:  # the waiting batches were cancelled meanwhile
            return self._finish_first()
        self._tokens[device] += batch.tokens
        self._batches[device] += 1
        self._begin(lane, batch)
        return True

    def _start_anew(self) -> None:
        """Start at the first lanes again. They hold the CUDA graphs of earlier small requests."""
        self._tokens = [0] * len(self._devices)
        self._batches = [0] * len(self._devices)

    def _begin(self, lane: GpuLane, batch: WaitingBatch[GpuBatch]) -> None:
        work = batch.work
        try:
            with lane.cuda.current():
                lane.begin(work.pairs, work.rows, work.logits)
        except BaseException as error:
            self._failed(lane, batch, error)
        else:
            self._under_way[lane] = batch

    def _finish_first(self) -> bool:
        if not self._under_way:
            return False
        self._finish(next(iter(self._under_way)))
        return True

    def _finish(self, lane: GpuLane) -> None:
        """Wait for the batch of a lane. If the thread is interrupted, the batch stays in `_under_way`."""
        batch = self._under_way[lane]
        try:
            with lane.cuda.current():
                lane.finish()
        except Exception as error:
            del self._under_way[lane]
            self._failed(lane, batch, error)
        else:
            del self._under_way[lane]
            batch.future.set_result(len(batch.work.rows))

    def _failed(self, lane: GpuLane, batch: WaitingBatch[GpuBatch], error: BaseException) -> None:
        try:
            with contextlib.suppress(BackendError), lane.cuda.current():
                lane.abandon()
        finally:
            batch.fail(error)
        if not isinstance(error, Exception):
            raise error
