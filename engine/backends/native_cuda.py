"""The native kernels on a GPU, in FP16: all between the matrix products in `native/encoder.cu`, these by cuBLAS.

A batch has no padding: pairs lie one after the other, and of the last layer only each pair's first token is computed.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..batching.packed_layout import PackedLayout
from ..bundle.bundle import Bundle
from ..bundle.native_weights import ACTIVATIONS, NativeModel, padded
from ..bundle.profiles import Shape
from ..cuda.cublas import WORKSPACE, Cublas
from ..cuda.cuda import Cuda, DeviceBuffer, PinnedBuffer, Stream, laid_out
from ..cuda.cuda_kernels import CudaKernels
from ..errors import BackendError
from ..precision import Precision

MOST_TOKENS = 32_768
"""Of the largest batch; smaller ones take longer a token. See docs/decisions/0015."""
MOST_ROWS = 4_096
"""Pairs of the largest batch."""
MOST_PRODUCTS = 2_048
"""Kept as they were prepared; the one that was used longest ago leaves."""
HALF, SINGLE = np.dtype(np.float16), np.dtype(np.float32)


class Kernels(Protocol):
    """See `CudaKernels`."""

    def launch(self, name: str, blocks: tuple[int, int], stream: int, count: int, *pointers: int) -> None:
        """See `CudaKernels.launch`."""

    def close(self) -> None:
        """See `CudaKernels.close`."""


class OneProduct(Protocol):
    """See `Product`."""

    def enqueue(self, stream: int, x: int, weight: int, bias: int, y: int, workspace: int) -> None:
        """See `Product.enqueue`."""

    def close(self) -> None:
        """See `Product.close`."""


class Products(Protocol):
    """See `Cublas`."""

    def product(self, rows: int, inputs: int, outputs: int, *, gelu: bool = False, single: bool = False) -> OneProduct:
        """See `Cublas.product`."""

    def close(self) -> None:
        """See `Cublas.close`."""


class NativeGpuExecutor:
    """See `GpuExecutor`. The weights lie on the device once, for all lanes, and so do the products that were prepared."""

    lanes = 2
    graphs = 256
    batch_cost = 0  # no batch is padded, so none is cut for it
    output = SINGLE

    def __init__(
        self,
        bundle: Bundle,
        cuda: Cuda,
        *,
        kernels: Callable[[Cuda, Mapping[str, object]], Kernels] = CudaKernels,
        products: Callable[[Cuda], Products] = Cublas,
    ) -> None:
        """Compile the kernels and put the weights on the device.

        Raises BackendError where the kernels cannot run, or cannot compute this model, and BundleError for a file that is not
        theirs.
        """
        file = bundle.native_file(Precision.FP16)
        model = NativeModel.open(file)
        model.check_belongs(file, bundle.manifest, Precision.FP16)
        self.cuda = cuda
        self.sizes = sizes = model.sizes
        width, attended = padded(sizes.hidden), sizes.heads * sizes.head
        self.width, self.attended = width, attended
        self.layout = PackedLayout(
            most_tokens=MOST_TOKENS,
            most_rows=MOST_ROWS,
            longest=sizes.positions,
            vocab=sizes.vocab,
            types=sizes.types,
            padding=sizes.padding,
        )
        macros = {
            "HIDDEN": sizes.hidden,
            "WIDTH": width,
            "HEADS": sizes.heads,
            "HEAD": sizes.head,
            "ATTENDED": attended,
            "TYPES": sizes.types,
            "EPSILON": f"{sizes.epsilon!r}f",
            "LABELS": sizes.labels,
            "DENSE": sizes.dense,
            "ACTIVATION": ACTIVATIONS.index(sizes.activation) if sizes.dense > 1 else 0,
        }
        self._kept: OrderedDict[tuple[int, int, int, bool, bool], OneProduct] = OrderedDict()
        with ExitStack() as opened:
            self.kernels = kernels(cuda, macros)
            opened.callback(self.kernels.close)
            self._products = products(cuda)
            opened.callback(self._products.close)
            opened.callback(self._forget)
            names = [name for name, _, _ in sizes.tensors()]
            self.weights = self._uploaded(dict(zip(names, model.arrays, strict=True)), opened)
            self._opened = opened.pop_all()
        self.places, self.workspace = self._arena(self.layout.largest[0])

    def context(self, stream: int, workspace: int) -> "NativeGpuContext":
        """See `GpuExecutor.context`."""
        return NativeGpuContext(self, stream, workspace)

    def product(self, rows: int, inputs: int, outputs: int, *, gelu: bool = False, single: bool = False) -> OneProduct:
        """Return a product as it was prepared the first time, for which cuBLAS takes a tenth of a millisecond."""
        key = (rows, inputs, outputs, gelu, single)
        if key not in self._kept:
            if len(self._kept) == MOST_PRODUCTS:
                self._kept.popitem(last=False)[1].close()
            self._kept[key] = self._products.product(rows, inputs, outputs, gelu=gelu, single=single)
        self._kept.move_to_end(key)
        return self._kept[key]

    def close(self) -> None:
        """See `GpuExecutor.close`."""
        self._opened.close()

    def _forget(self) -> None:
        while self._kept:
            self._kept.popitem()[1].close()

    def _arena(self, largest: Shape) -> tuple[dict[str, int], int]:
        """Where in a context's workspace each intermediate result begins, and how large all are together."""
        rows, tokens = largest
        width, attended, wide = self.width, self.attended, self.sizes.intermediate
        of_token = {
            "hidden": width,
            "change": width,
            "mixed": attended,
            # What is read by attention is dead when the feed-forward layers' is written.
            "wide": max(3 * attended, wide),
        }
        of_row = {
            "first": width,
            "first_query": attended,
            "first_mixed": attended,
            "first_change": width,
            "first_wide": wide,
        }
        sizes = {name: tokens * channels * HALF.itemsize for name, channels in of_token.items()}
        sizes |= {name: rows * channels * HALF.itemsize for name, channels in of_row.items()}
        sizes |= {"pooled": rows * width * SINGLE.itemsize, "products": WORKSPACE}
        return laid_out(sizes)

    def _uploaded(self, arrays: Mapping[str, npt.NDArray[Any]], opened: ExitStack) -> dict[str, int]:
        """Put the weights on the device; return where each is."""
        places, end = laid_out({name: max(1, array.nbytes) for name, array in arrays.items()})
        try:
            memory = DeviceBuffer(self.cuda, end)
        except BackendError as error:
            free, _ = self.cuda.memory()
            raise BackendError(
                f"the weights need {end / 1e6:,.1f} MB on the device, {free / 1e6:,.1f} MB are free ({error})"
            ) from error
        opened.callback(memory.close)
        with ExitStack() as meanwhile:
            host = PinnedBuffer(self.cuda, end)
            meanwhile.callback(host.close)
            stream = Stream(self.cuda)
            meanwhile.callback(stream.close)
            for name, array in arrays.items():
                host.bytes[places[name] :][: array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            stream.upload(host, memory, end)
            stream.synchronize()
        return {name: memory.handle + place for name, place in places.items()}


class NativeGpuContext:
    """See `GpuContext`. It keeps nothing of a shape."""

    def __init__(self, executor: NativeGpuExecutor, stream: int, workspace: int) -> None:
        self._executor = executor
        self._stream = stream
        self._at = {name: workspace + place for name, place in executor.places.items()}

    def enqueue(self, shape: Shape, addresses: Mapping[str, int]) -> None:
        """See `GpuContext.enqueue`."""
        rows, tokens = shape
        executor, at = self._executor, self._at
        sizes, width, attended = executor.sizes, executor.width, executor.attended
        weights = executor.weights

        def launch(name: str, warps: int, count: int, *pointers: int) -> None:
            executor.kernels.launch(name, (-(-warps // 4), 1), self._stream, count, *pointers)

        def product(name: str, inputs: int, outputs: int, x: str, y: str, *, count: int, gelu: bool = False) -> None:
            executor.product(count, inputs, outputs, gelu=gelu).enqueue(
                self._stream, at[x], weights[f"{name}.weight"], weights[f"{name}.bias"], at[y], at["products"]
            )

        def normalize(name: str, hidden: str, change: str, count: int) -> None:
            launch(
                "add_normalize",
                count,
                count,
                at[hidden],
                at[change],
                weights[f"{name}.weight"],
                weights[f"{name}.bias"],
            )

        def feed_forward(layer: str, prefix: str, count: int) -> None:
            hidden, change = ("first", "first_change") if prefix else ("hidden", "change")
            normalize(f"{layer}.attention_norm", hidden, change, count)
            product(f"{layer}.intermediate", width, sizes.intermediate, hidden, f"{prefix}wide", count=count, gelu=True)
            product(f"{layer}.output", sizes.intermediate, width, f"{prefix}wide", change, count=count)
            normalize(f"{layer}.output_norm", hidden, change, count)

        embeddings = (weights["word"], weights["position"], weights["type"])
        norm = (weights["embedding_norm.weight"], weights["embedding_norm.bias"])
        launch("embed", tokens, tokens, addresses["ids"], addresses["places"], *embeddings, *norm, at["hidden"])
        for number in range(sizes.layers - 1):
            layer = f"layer.{number}"
            product(f"{layer}.query_key_value", width, 3 * attended, "hidden", "wide", count=tokens)
            tiles = executor.layout.tiles(shape)
            executor.kernels.launch(
                "attend", (tiles, sizes.heads), self._stream, tiles, addresses["tiles"], at["wide"], at["mixed"]
            )
            product(f"{layer}.attention_output", attended, width, "mixed", "change", count=tokens)
            feed_forward(layer, "", tokens)
        layer = f"layer.{sizes.layers - 1}"
        product(f"{layer}.key_value", width, 2 * attended, "hidden", "wide", count=tokens)
        launch("take_first", rows, rows, addresses["begins"], at["hidden"], at["first"])
        product(f"{layer}.query", width, attended, "first", "first_query", count=rows)
        pairs = (addresses["begins"], addresses["lengths"])
        launch("attend_first", rows * sizes.heads, rows, *pairs, at["first_query"], at["wide"], at["first_mixed"])
        product(f"{layer}.attention_output", attended, width, "first_mixed", "first_change", count=rows)
        feed_forward(layer, "first_", rows)
        pooled = at["first"]
        if sizes.dense > 1:
            pooled = at["pooled"]
            executor.product(rows, width, width, single=True).enqueue(
                self._stream, at["first"], weights["head.0.weight"], weights["head.0.bias"], pooled, at["products"]
            )
        last = f"head.{sizes.dense - 1}"
        launch("classify", rows, rows, pooled, weights[f"{last}.weight"], weights[f"{last}.bias"], addresses["logits"])

    def close(self) -> None:
        """See `GpuContext.close`."""
