"""`Pipeline`: a request's batches on their way through a GPU, several at once."""

import contextlib
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .bundle import Bundle
from .cuda import Cuda, DeviceBuffer, Graph, PinnedBuffer, Stream
from .engine_file import Shape
from .errors import BackendError, CudaError, ShapeError
from .lattice import Lattice
from .plan import Batch
from .session import Setup
from .streams import Pending
from .template import EncodedPairs

GRAPH_TOKENS = 16_384
"""Shapes of more tokens go without a graph: their kernels run longer than it takes to launch them."""
BATCH_COST = 512
"""What a batch costs beside its tokens, in tokens; to be measured on each kind of GPU, and not yet measured on any."""
ALIGNMENT = 256
"""Bytes: what TensorRT wants of addresses, and every CUDA allocation has."""


class Context(Protocol):
    """One execution context: state for one batch at a time."""

    def enqueue(self, shape: Shape, addresses: Mapping[str, int]) -> None:
        """Put one batch of this shape on the stream; `addresses` are device pointers of every input and of `logits`.

        Raises BackendError, with what the runtime said, for a batch that it does not take.
        """

    def close(self) -> None:
        """Free it, when its stream is done."""


class Executor(Protocol):
    """A loaded engine on one device."""

    cuda: Cuda
    inputs: Mapping[str, np.dtype[Any]]
    output: np.dtype[Any]
    lattice: Lattice
    lanes: int
    """Contexts that it is worth to have."""
    graphs: int
    """Graphs worth keeping for each."""

    def context(self, stream: int) -> Context:
        """Return a new context, whose batches all come on this stream. The device is current."""

    def close(self) -> None:
        """Free the engine, after its contexts."""


class Lane:
    """The way of one batch at a time: a context with its stream, its memory up and down, and its graphs.

    All memory is taken at once, for the largest shape; scoring allocates nothing. Used by one thread at a time, with
    the device current.
    """

    def __init__(self, executor: Executor, *, labels: int, pad_id: int) -> None:
        self.cuda = executor.cuda
        self._executor = executor
        self._labels = labels
        self._pad_id = pad_id
        self._graphs: OrderedDict[Shape, Graph] = OrderedDict()
        self._most_graphs = executor.graphs if self.cuda.graphs else 0
        self._met: set[Shape] = set()
        self._computing: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]] | None = None
        with contextlib.ExitStack() as opened:
            self._stream = Stream(self.cuda)
            opened.callback(self._stream.close)
            self._context = executor.context(self._stream.handle)
            opened.callback(self._context.close)
            up = max(self._offsets(shape)[1] for shape in executor.lattice.limits)
            down = max(rows for rows, _ in executor.lattice.limits) * labels * executor.output.itemsize
            self._host, self._device = self._pair(up, opened)
            self._host_logits, self._device_logits = self._pair(down, opened)
            opened.callback(self._drop_graphs)
            self._opened = opened.pop_all()

    def begin(self, pairs: EncodedPairs, rows: npt.NDArray[np.int64], logits: npt.NDArray[np.float32]) -> None:
        """Start a batch; its rows of `logits`, float32 [n, labels], are there after `finish`."""
        batch = Batch.padded(pairs, rows, self._pad_id)
        shape = self._executor.lattice.rounded(batch.shape)
        offsets, size = self._offsets(shape)
        self._fill(batch, shape, offsets)
        self._computing = logits, rows
        graph = self._graphs.get(shape)
        if graph is not None:
            self._graphs.move_to_end(shape)
            self._stream.launch(graph)
            return
        self._enqueue(shape, offsets, size)
        if shape not in self._met:
            self._met.add(shape)  # a first run lets the runtime choose kernels; what comes again is worth a graph
        elif self._most_graphs and shape[0] * shape[1] <= GRAPH_TOKENS:
            self._stream.synchronize()
            if len(self._graphs) == self._most_graphs:
                self._graphs.popitem(last=False)[1].close()
            self._graphs[shape] = self._stream.captured(lambda: self._enqueue(shape, offsets, size))

    def finish(self) -> None:
        """Wait for the batch, if there is one, and hand over its logits."""
        if self._computing is None:
            return
        logits, rows = self._computing
        self._computing = None
        self._stream.synchronize()
        found = self._host_logits.bytes.view(self._executor.output)[: len(rows) * self._labels]
        logits[rows] = found.reshape(len(rows), self._labels)

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
        try:
            device = DeviceBuffer(self.cuda, size)
        except CudaError as error:
            free, _ = self.cuda.memory()
            said = f"the largest batch needs {size / 1e6:,.1f} MB on the device for its tokens, {free / 1e6:,.1f} MB are free"
            raise CudaError(error.name, f"{error.name}: {said}") from error
        opened.callback(device.close)
        return host, device

    def _offsets(self, shape: Shape) -> tuple[dict[str, int], int]:
        """Where each input of this shape begins in the memory up, and where the last ends: one copy takes them all."""
        offsets, end = {}, 0
        for name, dtype in self._executor.inputs.items():
            offsets[name] = end
            end += -(-shape[0] * shape[1] * dtype.itemsize // ALIGNMENT) * ALIGNMENT
        return offsets, end

    def _fill(self, batch: Batch, shape: Shape, offsets: Mapping[str, int]) -> None:
        rows, length = batch.shape
        for name, dtype in self._executor.inputs.items():
            count = shape[0] * shape[1]
            view = self._host.bytes[offsets[name] :][: count * dtype.itemsize].view(dtype).reshape(shape)
            view[:] = self._pad_id if name == "input_ids" else 0
            view[:rows, :length] = getattr(batch, name)
            if name == "attention_mask":
                view[rows:, 0] = 1  # a row that attends to nothing would be NaN in some kernels

    def _enqueue(self, shape: Shape, offsets: Mapping[str, int], size: int) -> None:
        self._stream.upload(self._host, self._device, size)
        addresses = {name: self._device.handle + offset for name, offset in offsets.items()}
        addresses["logits"] = self._device_logits.handle
        self._context.enqueue(shape, addresses)
        down = shape[0] * self._labels * self._executor.output.itemsize
        self._stream.download(self._device_logits, self._host_logits, down)

    def _drop_graphs(self) -> None:
        while self._graphs:
            self._graphs.popitem()[1].close()


class Pipeline:
    """Owns the engines and lanes of one or several devices; any number of threads may start requests.

    Requests are computed in the order they came, by a thread of the pipeline's own, so that whoever started one can
    tokenize the next meanwhile. A request's batches go to the lanes in turn; nobody waits for the device but to use a
    lane again, and once at the end.
    """

    def __init__(self, bundle: Bundle, setup: Setup, executors: Sequence[Executor]) -> None:
        """Take all memory. Raises BackendError, with how much is needed, when a device has too little."""
        self.setup = setup
        self._bundle = bundle
        self._executors = executors
        self._lattice = executors[0].lattice
        if any(executor.lattice != self._lattice for executor in executors):
            raise BackendError("the engines of the devices take different shapes; build them with the same profiles")
        self._devices: list[deque[Lane]] = [deque() for _ in executors]
        self._lock = Lock()
        self._closed = False
        manifest = bundle.manifest
        try:
            for executor, device in zip(executors, self._devices, strict=True):
                with executor.cuda.current():
                    for _ in range(executor.lanes):
                        device.append(Lane(executor, labels=manifest.labels, pad_id=manifest.pad_token_id))
        except BaseException:
            self._free()
            raise
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="crossrt-gpu")

    def start(self, pairs: EncodedPairs, *, batch_size: int) -> Pending:
        """Begin to score a request. Batches are as large as the engine takes; `batch_size` is for CPUs. See `Pending`."""
        longest = int(pairs.lengths.max()) if len(pairs) else 0
        if longest > self._lattice.longest:
            raise ShapeError(
                f"a pair of {longest} tokens, and this engine takes up to {self._lattice.longest}: "
                f"set max_length={self._lattice.longest}, or build the engine for longer pairs"
            )
        logits = np.empty((len(pairs), self._bundle.manifest.labels), dtype=np.float32)
        with self._lock:
            if self._closed:
                raise BackendError("this model is closed; open the bundle again")
            return Pending([self._worker.submit(self._score, pairs, logits)], logits)

    def run(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Compute one batch that was padded elsewhere; its padding is taken off again. See `Session.run`."""
        return self.start(batch.pairs(), batch_size=len(batch.rows)).wait()

    def close(self) -> None:
        """Wait for what is being computed, then free everything. May be called again."""
        with self._lock:
            self._closed = True
        self._worker.shutdown(cancel_futures=True)
        self._free()

    @property
    def _lanes(self) -> list[Lane]:
        return [lane for device in self._devices for lane in device]

    def _score(self, pairs: EncodedPairs, logits: npt.NDArray[np.float32]) -> int:
        lengths = pairs.lengths
        loads = [0] * len(self._devices)
        try:
            for rows in self._lattice.parts(lengths, batch_cost=BATCH_COST, shares=len(self._devices)):
                device = loads.index(min(loads))
                loads[device] += len(rows) * int(lengths[rows[0]])
                lane = self._devices[device][0]
                self._devices[device].rotate(-1)
                with lane.cuda.current():
                    lane.finish()
                    lane.begin(pairs, rows, logits)
            for lane in self._lanes:
                with lane.cuda.current():
                    lane.finish()
        except BaseException:
            for lane in self._lanes:
                with contextlib.suppress(BackendError), lane.cuda.current():
                    lane.abandon()
            raise
        return len(pairs)

    def _free(self) -> None:
        for lane in self._lanes:
            with lane.cuda.current():
                lane.close()
        self._devices = []
        for executor in self._executors:
            with executor.cuda.current():
                executor.close()
            executor.cuda.close()
        self._executors = ()
