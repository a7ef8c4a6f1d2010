"""`Pipeline`: a request's batches on their way through a GPU, several at once."""

import contextlib
import logging
import os
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle
from math import prod
from threading import Lock, RLock, get_ident
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..batching.gpu_batches import Batches
from ..batching.plan import Batch
from ..bundle.bundle import Bundle
from ..bundle.tensorrt_engine import Shape
from ..cuda.cuda import ALIGNMENT, Cuda, DeviceBuffer, Graph, PinnedBuffer, Stream, laid_out
from ..errors import BackendError, CudaError, ShapeError
from ..hardware.cpus import usable_cpus
from ..process.forks import keep_for_ever
from ..text.template import EncodedPairs
from .execution_config import Setup
from .pending import Pending, submitted

logger = logging.getLogger("crossrt")

GRAPH_TOKENS = 16_384
"""Shapes of more tokens go without a graph: their kernels run longer than it takes to launch them."""
POISON = 0xFF
"""A byte, of which four are no number in floating point."""
SAME = 2e-3
"""How far a graph's logits may lie from the same batch's without one, of which they are all but always the same bits."""


class Context(Protocol):
    """One execution context: state for one batch at a time."""

    def enqueue(self, shape: Shape, addresses: Mapping[str, int]) -> None:
        """Put one batch of this shape on the stream; `addresses` are device pointers of its every array and of `logits`.

        Raises BackendError, with what the runtime said, for a batch that it does not take.
        """

    def close(self) -> None:
        """Free it, when its stream is done."""


class Executor(Protocol):
    """A loaded engine on one device."""

    cuda: Cuda
    output: np.dtype[Any]
    lanes: int
    """Batches on their way at once that it is worth to have."""
    graphs: int
    """Graphs worth keeping for each lane; 0 where batches cannot be captured."""
    workspace: int
    """Bytes of device memory that a context computes in; 0 where it takes its own."""
    batch_cost: int
    """What a batch costs beside its tokens, in tokens."""

    @property
    def batches(self) -> Batches:
        """What batches it takes; equal to those of another executor that takes the same."""

    def context(self, stream: int, workspace: int) -> Context:
        """Return a new context, whose batches all come on this stream. The device is current.

        `workspace` is a device pointer to as many bytes as asked for. Contexts of one stream share them: only one computes
        at a time.
        """

    def close(self) -> None:
        """Free the engine, after its contexts."""


class Lane:
    """The way of one batch at a time: a context with its stream, its memory up and down, and its graphs.

    All memory is taken at once, for the largest shape; scoring allocates nothing but graphs. Each graph has a context of
    its own, since a context's insides change with the shape, and a graph that was captured before would compute with them.
    Used by one thread at a time, with the device current.
    """

    def __init__(self, executor: Executor, *, labels: int) -> None:
        self.cuda = executor.cuda
        self._executor = executor
        self._batches = executor.batches
        self._labels = labels
        self._graphs: OrderedDict[Shape, tuple[Graph, contextlib.ExitStack]] = OrderedDict()
        """By shape, with what closes each."""
        self._most_graphs = executor.graphs if self.cuda.graphs else 0
        self._met: set[Shape] = set()
        self._computing: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]] | None = None
        with contextlib.ExitStack() as opened:
            self._stream = Stream(self.cuda)
            opened.callback(self._stream.close)
            # No allocation is of no bytes.
            self._workspace = self._on_device(executor.workspace or ALIGNMENT, "to compute it in", opened)
            self._context = executor.context(self._stream.handle, self._workspace.handle)
            opened.callback(self._context.close)
            up = max(self._offsets(shape)[1] for shape in self._batches.largest)
            down = max(rows for rows, _ in self._batches.largest) * labels * executor.output.itemsize
            self._host, self._device = self._pair(up, opened)
            self._host_logits, self._device_logits = self._pair(down, opened)
            opened.callback(self._drop_graphs)
            self._opened = opened.pop_all()

    def begin(self, pairs: EncodedPairs, rows: npt.NDArray[np.int64], logits: npt.NDArray[np.float32]) -> None:
        """Start a batch; its rows of `logits`, float32 [n, labels], are there after `finish`."""
        shape = self._batches.shape(pairs.lengths[rows])
        offsets, size = self._offsets(shape)
        self._batches.fill(self._views(shape, offsets), pairs, rows)
        self._computing = logits, rows
        if shape in self._graphs:
            self._graphs.move_to_end(shape)
            self._stream.launch(self._graphs[shape][0])
            return
        self._enqueue(self._context, shape, offsets, size)
        if shape not in self._met:
            self._met.add(shape)
        elif self._most_graphs and self._batches.tokens(shape) <= GRAPH_TOKENS:
            try:
                self._capture(shape, offsets, size)
            except BackendError as error:
                self._most_graphs = 0
                logger.warning(
                    "shapes that come again have no CUDA graph on cuda:%d, which costs time alone: %s",
                    self.cuda.ordinal,
                    error,
                )
                self._enqueue(self._context, shape, offsets, size)  # what the graph has left there is not to be trusted

    def finish(self) -> None:
        """Wait for the batch, if there is one, and hand over its logits."""
        if self._computing is None:
            return
        logits, rows = self._computing
        self._stream.synchronize()
        found = self._host_logits.bytes.view(self._executor.output)[: len(rows) * self._labels]
        logits[rows] = found.reshape(len(rows), self._labels)
        self._computing = None  # not before: who is interrupted while it waits must still abandon it

    def abandon(self) -> None:
        """Wait for what is being computed, and forget it, error or not."""
        if self._computing is not None:
            self._computing = None
            with contextlib.suppress(BackendError):  # the first error has been raised already
                self._stream.synchronize()

    def close(self) -> None:
        """Free everything. May be called again."""
        self.abandon()
        self._opened.close()

    def _pair(self, size: int, opened: contextlib.ExitStack) -> tuple[PinnedBuffer, DeviceBuffer]:
        host = PinnedBuffer(self.cuda, size)
        opened.callback(host.close)
        return host, self._on_device(size, "for its tokens and logits", opened)

    def _on_device(self, size: int, purpose: str, opened: contextlib.ExitStack) -> DeviceBuffer:
        try:
            device = DeviceBuffer(self.cuda, size)
        except CudaError as error:
            free, _ = self.cuda.memory()
            said = (
                f"the largest batch needs {size / 1e6:,.1f} MB on the device {purpose}, {free / 1e6:,.1f} MB are free"
            )
            raise CudaError(error.name, f"{error.name}: {said}") from error
        opened.callback(device.close)
        return device

    def _offsets(self, shape: Shape) -> tuple[dict[str, int], int]:
        """Where each array of this shape begins in the memory up, and where the last ends: one copy takes them all."""
        arrays = self._batches.arrays(shape)
        return laid_out({name: prod(sizes) * dtype.itemsize for name, (dtype, sizes) in arrays.items()})

    def _views(self, shape: Shape, offsets: Mapping[str, int]) -> dict[str, npt.NDArray[Any]]:
        memory = self._host.bytes
        return {
            name: memory[offsets[name] :][: prod(sizes) * dtype.itemsize].view(dtype).reshape(sizes)
            for name, (dtype, sizes) in self._batches.arrays(shape).items()
        }

    def _enqueue(self, context: Context, shape: Shape, offsets: Mapping[str, int], size: int) -> None:
        self._stream.upload(self._host, self._device, size)
        addresses = {name: self._device.handle + offset for name, offset in offsets.items()}
        addresses["logits"] = self._device_logits.handle
        context.enqueue(shape, addresses)
        self._stream.download(self._device_logits, self._host_logits, self._down(shape))

    def _down(self, shape: Shape) -> int:
        return shape[0] * self._labels * self._executor.output.itemsize

    def _capture(self, shape: Shape, offsets: Mapping[str, int], size: int) -> None:
        """Make a graph for a shape, in place of the one that was used longest ago. The batch is computed twice more.

        Raises BackendError when there can be none, or when it does not compute what was computed without.
        """
        if len(self._graphs) == self._most_graphs:
            oldest, (_, closing) = self._graphs.popitem(last=False)
            self._met.discard(oldest)  # or it would come back at once, in a round of more shapes than graphs
            closing.close()
        with contextlib.ExitStack() as opened:
            context = self._executor.context(self._stream.handle, self._workspace.handle)
            opened.callback(context.close)
            opened.callback(self._stream.synchronize)  # no context is closed before its work is done
            self._enqueue(context, shape, offsets, size)  # a first run, in which the runtime chooses kernels
            self._stream.synchronize()
            down = self._down(shape)
            expected = self._host_logits.bytes[:down].view(self._executor.output).astype(np.float32)
            graph = self._stream.captured(lambda: self._enqueue(context, shape, offsets, size))
            opened.callback(graph.close)
            # A graph without its copies or its kernels finds neither these tokens nor these logits on the device.
            tokens = self._host.bytes[:size].copy()
            self._host.bytes[:size] = 0
            self._host_logits.bytes[:down] = POISON
            try:
                self._stream.upload(self._host, self._device, size)
                self._stream.upload(self._host_logits, self._device_logits, down)
                self._stream.synchronize()
            finally:  # the batch is computed again without a graph if there is none
                self._host.bytes[:size] = tokens
            self._stream.launch(graph)
            self._stream.synchronize()
            found = self._host_logits.bytes[:down].view(self._executor.output).astype(np.float32)
            if not np.allclose(found, expected, rtol=SAME, atol=SAME):  # NaN proves nothing: it is what lay there
                raise BackendError(f"a graph of {shape[0]} x {shape[1]} tokens computes other logits than its batch")
            self._graphs[shape] = graph, opened.pop_all()

    def _drop_graphs(self) -> None:
        with contextlib.ExitStack() as closing:  # which goes on after an error
            while self._graphs:
                closing.callback(self._graphs.popitem()[1][1].close)


class Pipeline:
    """Owns the engines and lanes of one or several devices; any number of threads may start requests.

    Requests are computed one after the other, by a thread of the pipeline's own, so that whoever started one can
    tokenize the next meanwhile, or by the caller's, which saves two changes of threads. A request's batches go to the lanes
    in turn; nobody waits for the device but to use a lane again, and once at the end. Dropped without `close`, it frees
    everything too.

    A process that is forked must open the model itself: CUDA does not come along.
    """

    first_chunk = 1024  # some full batches

    def __init__(self, bundle: Bundle, setup: Setup, executors: Sequence[Executor]) -> None:
        """Take all memory, and the executors, which are closed on an error too.

        Raises BackendError, with how much is needed, when a device has too little.
        """
        self.setup = setup
        self.tokenizing_threads = usable_cpus()
        self._bundle = bundle
        self._batches = executors[0].batches
        self._batch_cost = max(executor.batch_cost for executor in executors)
        self._devices: list[list[Lane]] = [[] for _ in executors]
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
            if any(executor.batches != self._batches for executor in executors):
                raise BackendError(
                    "the engines of the devices take different shapes; build them with the same profiles"
                )
            for executor, device in zip(executors, self._devices, strict=True):
                with executor.cuda.current():
                    for _ in range(executor.lanes):
                        device.append(Lane(executor, labels=bundle.manifest.labels))
        except BaseException:
            self._free()
            raise

    @property
    def longest(self) -> int:
        """Tokens of the longest pair that the engines take."""
        return self._batches.longest

    def start(self, pairs: EncodedPairs, *, batch_size: int, at_once: bool = False) -> Pending:
        """See `Scorer.start`. Batches are as large as the engine takes; `batch_size` is for CPUs."""
        if os.getpid() != self._process:  # asked before the lock, which a thread of the parent's may have held
            raise BackendError(
                f"this model was opened on {self.setup.device} before the process forked, and CUDA does not come along: "
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
            if not at_once:
                return Pending([submitted(self._worker, self._score, pairs, logits)], logits)
        done: Future[int] = Future()
        done.set_result(self._score(pairs, logits))
        return Pending([done], logits)

    def run(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Compute one batch that was padded elsewhere; its padding is taken off again. See `Session.run`."""
        return self.start(batch.pairs(), batch_size=len(batch.rows)).wait()

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
            for rows in self._batches.parts(lengths, batch_cost=self._batch_cost, shares=len(self._devices)):
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
    process: int, worker: ThreadPoolExecutor, devices: Sequence[Sequence[Lane]], executors: Sequence[Executor]
) -> None:
    """Free a pipeline that nobody uses any more, all of it, whatever fails on the way."""
    if os.getpid() != process:
        keep_for_ever((devices, executors))
        return
    worker.shutdown(wait=False)  # it has nothing to do, and may be the thread that this runs in
    for executor, lanes in zip(executors, devices, strict=True):
        closing: tuple[Lane | Executor, ...] = (*lanes, executor)
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
