"""`SimulatedGpu`: a simulated GPU in host memory, which turns every misuse of CUDA into an error.

Work stays in its stream until the stream is synchronized, so code that forgets to synchronize reads poison. Use after free,
double free, copies beyond a buffer, calls while the device is not current, and memory that is not freed are errors.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import numpy as np

from crossrt.engine.batching.padded_layout import PaddedLayout
from crossrt.engine.batching.shape_buckets import ShapeBuckets
from crossrt.engine.bundle.profiles import Shape
from crossrt.engine.cuda.cuda import Bytes
from crossrt.engine.errors import CudaError

POISON = 0xCD


class SimulatedGpu:
    graphs = True

    def __init__(self, ordinal: int = 0, *, total: int = 1 << 30) -> None:
        self.ordinal = ordinal
        self.total = total
        self.closed = False
        self.allocations: dict[int, Bytes] = {}
        self.pinned: dict[int, Bytes] = {}
        self.streams: dict[int, list[Callable[[], None]]] = {}
        self.graph_works: dict[int, list[Callable[[], None]]] = {}
        self.events: set[int] = set()
        self.capturing: dict[int, list[Callable[[], None]]] = {}
        self.log: list[str] = []
        self.failing = ""
        self.lost = False
        self._next = 1 << 12
        self._current: set[int] = set()

    # -- what tests look at

    @property
    def used(self) -> int:
        return sum(len(memory) for memory in self.allocations.values())

    @property
    def left_behind(self) -> list[str]:
        kinds = {"memory": self.allocations, "pinned": self.pinned, "streams": self.streams, "graphs": self.graph_works}
        return [name for name, kept in kinds.items() if kept] + (["events"] if self.events else [])

    def at(self, pointer: int, size: int) -> Bytes:
        """Return device memory, wherever in an allocation the pointer lies."""
        for start, memory in self.allocations.items():
            if start <= pointer < start + len(memory):
                assert pointer + size <= start + len(memory), "a copy or kernel goes beyond its buffer"
                return memory[pointer - start :][:size]
        raise AssertionError(f"pointer {pointer:#x} was freed, or never was")

    # -- the verbs

    @contextmanager
    def current(self) -> Iterator[None]:
        assert not self.closed
        entered = get_ident() not in self._current
        self._current.add(get_ident())
        try:
            yield
        finally:
            if entered:
                self._current.discard(get_ident())

    def memory(self) -> tuple[int, int]:
        self._check()
        return self.total - self.used, self.total

    def allocate(self, size: int) -> int:
        self._check("allocate")
        assert size > 0
        if self.used + size > self.total:
            raise CudaError("CUDA_ERROR_OUT_OF_MEMORY")
        self._next = (self._next // (1 << 32) + 1) << 32  # aligned, as CUDA's are
        self.allocations[self._next] = np.full(size, POISON, dtype=np.uint8)
        return self._next

    def free(self, pointer: int) -> None:
        self._check("free")
        del self.allocations[pointer]

    def allocate_pinned(self, size: int) -> Bytes:
        self._check("allocate_pinned")
        memory = np.full(size, POISON, dtype=np.uint8)
        self.pinned[memory.ctypes.data] = memory
        return memory

    def free_pinned(self, memory: Bytes) -> None:
        self._check("free_pinned")
        del self.pinned[memory.ctypes.data]

    def create_stream(self) -> int:
        self._check("create_stream")
        self._next += 1
        self.streams[self._next] = []
        return self._next

    def destroy_stream(self, stream: int) -> None:
        self._check("destroy_stream")
        assert not self.streams.pop(stream), "a stream was destroyed with work on it"

    def synchronize(self, stream: int) -> None:
        self._check("synchronize")
        if stream in self.capturing:
            raise CudaError("CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")
        work, self.streams[stream] = self.streams[stream], []
        for each in work:
            each()

    def upload(self, pointer: int, source: Bytes, stream: int) -> None:
        self._check("upload")
        self._pinned(source)

        def copy() -> None:
            self._pinned(source)
            self.at(pointer, len(source))[:] = source

        self._put(stream, copy)

    def download(self, target: Bytes, pointer: int, stream: int) -> None:
        self._check("download")
        self._pinned(target)
        if stream not in self.capturing:
            target[:] = POISON  # read by code that does not wait for the copy

        def copy() -> None:
            self._pinned(target)
            target[:] = self.at(pointer, len(target))

        self._put(stream, copy)

    def create_event(self) -> int:
        self._next += 1
        self.events.add(self._next)
        return self._next

    def destroy_event(self, event: int) -> None:
        self.events.remove(event)

    def record(self, event: int, stream: int) -> None:
        assert event in self.events
        self._put(stream, lambda: None)

    def elapsed_ms(self, begin: int, end: int) -> float:
        assert {begin, end} <= self.events
        return 1.0

    def begin_capture(self, stream: int) -> None:
        self._check("begin_capture")
        assert not self.streams[stream], "captured on a stream with work on it"
        self.capturing[stream] = []

    def end_capture(self, stream: int) -> int:
        works = self.capturing.pop(stream)  # the capture ends even if it gives no graph
        self._check("end_capture")
        self._next += 1
        self.graph_works[self._next] = works
        return self._next

    def launch(self, graph: int, stream: int) -> None:
        self._check("launch")
        for work in self.graph_works[graph]:
            self._put(stream, work)

    def destroy_graph(self, graph: int) -> None:
        self._check("destroy_graph")
        del self.graph_works[graph]

    def close(self) -> None:
        self.closed = True

    def kernel(self, stream: int, work: Callable[[], None]) -> None:
        """Put a computation on a stream."""
        self._check("kernel")
        self._put(stream, work)

    def _put(self, stream: int, work: Callable[[], None]) -> None:
        target = self.capturing[stream] if stream in self.capturing else self.streams[stream]
        target.append(work)

    def _check(self, verb: str = "") -> None:
        assert not self.closed, "the device was given back already"
        assert get_ident() in self._current, "the device is not current in this thread"
        self.log.append(verb)
        if verb and verb == self.failing:
            raise CudaError("CUDA_ERROR_LAUNCH_FAILED")
        if verb and self.lost:
            raise CudaError("CUDA_ERROR_ILLEGAL_ADDRESS")

    def _pinned(self, memory: Bytes) -> None:
        start = memory.ctypes.data
        assert any(at <= start and start + len(memory) <= at + len(whole) for at, whole in self.pinned.items()), (
            "host memory that is not pinned, or was freed"
        )


class SimulatedExecutor:
    """An engine with known logits: the sum of a row's ids and types without padding, times l + 1 for label l."""

    def __init__(
        self,
        cuda: SimulatedGpu,
        *,
        limits: tuple[Shape, ...] = ((32, 64), (16, 128)),
        labels: int = 1,
        dtype: Any = np.int32,
        output: Any = np.float32,
        lanes: int = 3,
        graphs: int = 64,
        workspace: int = 4096,
        batch_cost: int = 512,
        names: tuple[str, ...] = ("input_ids", "attention_mask", "token_type_ids"),
    ) -> None:
        self.cuda = cuda
        self.inputs = {name: np.dtype(dtype) for name in names}
        self.output = np.dtype(output)
        self.layout = PaddedLayout(ShapeBuckets(limits), self.inputs, pad_id=0)
        self.lanes = lanes
        self.graphs = graphs
        self.workspace = workspace
        self.batch_cost = batch_cost
        self.labels = labels
        self.shapes: list[Shape] = []
        self.contexts = 0
        self.closed = False

    def context(self, stream: int, workspace: int) -> "SimulatedContext":
        assert not self.closed
        self.contexts += 1
        return SimulatedContext(self, stream, workspace)

    def close(self) -> None:
        assert self.contexts == 0, "an engine was closed before its contexts"
        self.closed = True


class SimulatedContext:
    """Like a context of TensorRT: its state changes with the shape, which breaks graphs that were captured before."""

    def __init__(self, executor: SimulatedExecutor, stream: int, workspace: int) -> None:
        self.executor = executor
        self.stream = stream
        self.workspace = workspace
        self.shape: Shape | None = None

    def enqueue(self, shape: Shape, addresses: Mapping[str, int]) -> None:
        executor = self.executor
        rows, sequence = shape
        assert sequence <= executor.layout.max_length
        assert rows <= executor.layout.buckets.rows(sequence)
        assert set(addresses) == {*executor.inputs, "logits"}
        executor.shapes.append(shape)
        self.shape = shape

        def compute() -> None:
            assert self.shape == shape, "the context was closed, or has met another shape since this was captured"
            executor.cuda.at(self.workspace, executor.workspace)[:] = POISON
            arrays = {
                name: executor.cuda.at(addresses[name], rows * sequence * dtype.itemsize).view(dtype).reshape(shape)
                for name, dtype in executor.inputs.items()
            }
            mask = arrays["attention_mask"]
            assert (mask.sum(axis=1) >= 1).all(), "a row attends to nothing"
            sums = (arrays["input_ids"] * mask).sum(axis=1) + (arrays.get("token_type_ids", mask * 0) * mask).sum(
                axis=1
            )
            logits = (sums[:, None] * np.arange(1, executor.labels + 1)).astype(executor.output)
            target = executor.cuda.at(addresses["logits"], logits.nbytes)
            target[:] = logits.reshape(-1).view(np.uint8)

        executor.cuda.kernel(self.stream, compute)

    def close(self) -> None:
        self.executor.contexts -= 1
        self.shape = None
