"""`GpuLane`: a CUDA stream with the memory and the graphs for one batch at a time."""

import contextlib
import logging
from collections import OrderedDict
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from ..backends.gpu_executor import GpuContext, GpuExecutor
from ..bundle.profiles import Shape
from ..cuda.cuda import ALIGNMENT, DeviceBuffer, Graph, PinnedBuffer, Stream, laid_out
from ..errors import BackendError, CudaError
from ..text.encoded_pairs import EncodedPairs

logger = logging.getLogger("crossrt")


GRAPH_TOKENS = 16_384
"""Largest batch, in tokens, that is captured as a graph. Kernels of larger batches run longer than the host takes to launch
them."""
POISON = 0xFF
"""Byte that overwrites the logits before a graph is tested: 0xFFFFFFFF is a NaN in FP32, and 0xFFFF one in FP16."""
GRAPH_TOLERANCE = 2e-3
"""Largest difference, relative and absolute, between the logits of a graph and those of the same batch without one. They are
nearly always bit-identical."""


class GpuLane:
    """A stream, an execution context, pinned and device memory for inputs and logits, and CUDA graphs by shape.

    The memory is allocated when the lane opens, for the largest shape; afterwards only graphs allocate. A shape is captured as a
    graph when it comes for the second time. Each graph has its own context, because a context's internal state changes with the
    shape, and a graph reads that state when it is launched. One thread at a time may use a lane, with the device current.
    """

    def __init__(self, executor: GpuExecutor, *, labels: int) -> None:
        """Allocate stream, memory and context. Raises CudaError, saying how much is needed, if the memory is too small."""
        self.cuda = executor.cuda
        self._executor = executor
        self._layout = executor.layout
        self._labels = labels
        self._graphs: OrderedDict[Shape, tuple[Graph, contextlib.ExitStack]] = OrderedDict()
        """Graphs by shape, the least recently used first, each with the stack that frees it."""
        self._max_graphs = executor.graphs if self.cuda.graphs else 0
        self._seen: set[Shape] = set()
        self._computing: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]] | None = None
        with contextlib.ExitStack() as opened:
            self._stream = Stream(self.cuda)
            opened.callback(self._stream.close)
            # CUDA refuses to allocate 0 bytes.
            self._workspace = self._on_device(executor.workspace or ALIGNMENT, "to compute it in", opened)
            self._context = executor.context(self._stream.handle, self._workspace.handle)
            opened.callback(self._context.close)
            input_size = max(self._offsets(shape)[1] for shape in self._layout.max_shapes)
            logits_size = max(rows for rows, _ in self._layout.max_shapes) * labels * executor.output.itemsize
            self._host, self._device = self._buffers(input_size, opened)
            self._host_logits, self._device_logits = self._buffers(logits_size, opened)
            opened.callback(self._drop_graphs)
            self._opened = opened.pop_all()

    @property
    def stream(self) -> Stream:
        """The stream of this lane, on which a measurement may record events."""
        return self._stream

    def begin(self, pairs: EncodedPairs, rows: npt.NDArray[np.int64], logits: npt.NDArray[np.float32]) -> None:
        """Start to compute a batch. `finish` writes its rows of `logits`, float32 [n, labels]."""
        shape = self._layout.shape(pairs.lengths[rows])
        offsets, size = self._offsets(shape)
        self._layout.fill(self._views(shape, offsets), pairs, rows)
        self._computing = logits, rows
        if shape in self._graphs:
            self._graphs.move_to_end(shape)
            self._stream.launch(self._graphs[shape][0])
            return
        self._enqueue(self._context, shape, offsets, size)
        if shape not in self._seen:
            self._seen.add(shape)
        elif self._max_graphs and self._layout.tokens(shape) <= GRAPH_TOKENS:
            try:
                self._capture(shape, offsets, size)
            except BackendError as error:
                self._max_graphs = 0
                logger.warning(
                    "no CUDA graph on cuda:%d for shapes that repeat; the scores are the same, but take longer: %s",
                    self.cuda.ordinal,
                    error,
                )
                self._enqueue(self._context, shape, offsets, size)  # again: the attempt has overwritten the logits

    def finish(self) -> None:
        """Wait for the batch, if there is one, and write its logits into the array that `begin` was given."""
        if self._computing is None:
            return
        logits, rows = self._computing
        self._stream.synchronize()
        computed = self._host_logits.bytes.view(self._executor.output)[: len(rows) * self._labels]
        logits[rows] = computed.reshape(len(rows), self._labels)
        self._computing = None  # only now: after an interrupt while waiting, `abandon` must still wait for the batch

    def abandon(self) -> None:
        """Wait for the batch, if there is one, and discard its logits and its error."""
        if self._computing is not None:
            self._computing = None
            with contextlib.suppress(BackendError):  # the caller is already handling the first error
                self._stream.synchronize()

    def close(self) -> None:
        """Wait for the batch, if there is one, and free everything. May be called again."""
        self.abandon()
        self._opened.close()

    def _buffers(self, size: int, opened: contextlib.ExitStack) -> tuple[PinnedBuffer, DeviceBuffer]:
        host = PinnedBuffer(self.cuda, size)
        opened.callback(host.close)
        return host, self._on_device(size, "for its tokens and logits", opened)

    def _on_device(self, size: int, purpose: str, opened: contextlib.ExitStack) -> DeviceBuffer:
        try:
            device = DeviceBuffer(self.cuda, size)
        except CudaError as error:
            free, _ = self.cuda.memory()
            need = (
                f"the largest batch needs {size / 1e6:,.1f} MB on the device {purpose}, {free / 1e6:,.1f} MB are free"
            )
            raise CudaError(error.name, f"{error.name}: {need}") from error
        opened.callback(device.close)
        return device

    def _offsets(self, shape: Shape) -> tuple[dict[str, int], int]:
        """Return the offset of each input array of this shape in the input buffer, and their total size.

        The arrays share a buffer, so that one copy uploads all of them.
        """
        arrays = self._layout.arrays(shape)
        return laid_out({name: prod(sizes) * dtype.itemsize for name, (dtype, sizes) in arrays.items()})

    def _views(self, shape: Shape, offsets: Mapping[str, int]) -> dict[str, npt.NDArray[Any]]:
        memory = self._host.bytes
        return {
            name: memory[offsets[name] :][: prod(sizes) * dtype.itemsize].view(dtype).reshape(sizes)
            for name, (dtype, sizes) in self._layout.arrays(shape).items()
        }

    def _enqueue(self, context: GpuContext, shape: Shape, offsets: Mapping[str, int], size: int) -> None:
        self._stream.upload(self._host, self._device, size)
        addresses = {name: self._device.handle + offset for name, offset in offsets.items()}
        addresses["logits"] = self._device_logits.handle
        context.enqueue(shape, addresses)
        self._stream.download(self._device_logits, self._host_logits, self._logits_size(shape))

    def _logits_size(self, shape: Shape) -> int:
        return shape[0] * self._labels * self._executor.output.itemsize

    def _capture(self, shape: Shape, offsets: Mapping[str, int], size: int) -> None:
        """Capture a graph for a shape. If there are too many, the least recently used graph is freed first.

        Computes the current batch twice more, once without and once with the graph. Raises BackendError if the batch cannot be
        captured, or if the graph gives other logits.
        """
        if len(self._graphs) == self._max_graphs:
            oldest, (_, closing) = self._graphs.popitem(last=False)
            # The old shape must come twice again to be captured. Otherwise a cycle of more shapes than graphs would capture
            # each time.
            self._seen.discard(oldest)
            closing.close()
        with contextlib.ExitStack() as opened:
            context = self._executor.context(self._stream.handle, self._workspace.handle)
            opened.callback(context.close)
            opened.callback(self._stream.synchronize)  # the context's work must be done before the context is closed
            self._enqueue(context, shape, offsets, size)  # a warm-up, in which the runtime chooses kernels
            self._stream.synchronize()
            logits_size = self._logits_size(shape)
            expected = self._host_logits.bytes[:logits_size].view(self._executor.output).astype(np.float32)
            graph = self._stream.captured(lambda: self._enqueue(context, shape, offsets, size))
            opened.callback(graph.close)
            # Clear the tokens and poison the logits on the device, so that a graph without its copies or kernels fails the test.
            tokens = self._host.bytes[:size].copy()
            self._host.bytes[:size] = 0
            self._host_logits.bytes[:logits_size] = POISON
            try:
                self._stream.upload(self._host, self._device, size)
                self._stream.upload(self._host_logits, self._device_logits, logits_size)
                self._stream.synchronize()
            finally:  # without a graph, `begin` computes the batch again from these tokens
                self._host.bytes[:size] = tokens
            self._stream.launch(graph)
            self._stream.synchronize()
            computed = self._host_logits.bytes[:logits_size].view(self._executor.output).astype(np.float32)
            # NaN counts as different, so poison that was never overwritten fails.
            if not np.allclose(computed, expected, rtol=GRAPH_TOLERANCE, atol=GRAPH_TOLERANCE):
                raise BackendError(f"a graph of {shape[0]} x {shape[1]} tokens computes other logits than its batch")
            self._graphs[shape] = graph, opened.pop_all()

    def _drop_graphs(self) -> None:
        with contextlib.ExitStack() as closing:  # closes all of them, even if one fails
            while self._graphs:
                closing.callback(self._graphs.popitem()[1][1].close)
