"""`GpuLane`: the stream, the memory and the graphs by which one batch at a time goes through a GPU."""

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
"""Shapes of more tokens go without a graph: their kernels run longer than it takes to launch them."""
POISON = 0xFF
"""A byte, of which four are no number in floating point."""
SAME = 2e-3
"""How far a graph's logits may lie from the same batch's without one, of which they are all but always the same bits."""


class GpuLane:
    """The way of one batch at a time: a context with its stream, its memory up and down, and its graphs.

    All memory is taken at once, for the largest shape; scoring allocates nothing but graphs. Each graph has a context of
    its own, since a context's insides change with the shape, and a graph that was captured before would compute with them.
    Used by one thread at a time, with the device current.
    """

    def __init__(self, executor: GpuExecutor, *, labels: int) -> None:
        self.cuda = executor.cuda
        self._executor = executor
        self._layout = executor.layout
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
            up = max(self._offsets(shape)[1] for shape in self._layout.largest)
            down = max(rows for rows, _ in self._layout.largest) * labels * executor.output.itemsize
            self._host, self._device = self._pair(up, opened)
            self._host_logits, self._device_logits = self._pair(down, opened)
            opened.callback(self._drop_graphs)
            self._opened = opened.pop_all()

    @property
    def stream(self) -> Stream:
        """The stream of this lane, on which a measurement may record events."""
        return self._stream

    def begin(self, pairs: EncodedPairs, rows: npt.NDArray[np.int64], logits: npt.NDArray[np.float32]) -> None:
        """Start a batch; its rows of `logits`, float32 [n, labels], are there after `finish`."""
        shape = self._layout.shape(pairs.lengths[rows])
        offsets, size = self._offsets(shape)
        self._layout.fill(self._views(shape, offsets), pairs, rows)
        self._computing = logits, rows
        if shape in self._graphs:
            self._graphs.move_to_end(shape)
            self._stream.launch(self._graphs[shape][0])
            return
        self._enqueue(self._context, shape, offsets, size)
        if shape not in self._met:
            self._met.add(shape)
        elif self._most_graphs and self._layout.tokens(shape) <= GRAPH_TOKENS:
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
