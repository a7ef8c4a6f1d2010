"""`NativeGpuExecutor`: crossrt's own kernels on a GPU, in FP16.

cuBLAS computes the matrix products, engine/kernels/native/encoder.cu everything between them. The pairs of a batch lie one after
the other without padding. The last layer is computed for each pair's first token only, because only that reaches the head.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..batching.packed_layout import PackedLayout
from ..bundle.bundle import Bundle
from ..bundle.native_weights import ACTIVATIONS, NativeModel
from ..bundle.profiles import Shape
from ..cuda.cublas import WORKSPACE, Cublas
from ..cuda.cuda import Cuda, DeviceBuffer, PinnedBuffer, Stream, laid_out
from ..cuda.cuda_kernels import CudaKernels
from ..errors import BackendError
from ..precision import Precision

MAX_TOKENS = 32_768
"""Tokens of the largest batch. Smaller batches take longer for each token; see docs/decisions/0015."""
MAX_ROWS = 4_096
"""Pairs of the largest batch."""
MAX_PRODUCTS = 2_048
"""Prepared products in the cache, which evicts the least recently used."""
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
    """See `GpuExecutor`. All lanes share one copy of the weights on the device, and one cache of prepared products."""

    lanes = 2
    graphs = 256
    batch_cost = 0  # no batch is padded, so cutting one gains nothing
    output = SINGLE

    def __init__(
        self,
        bundle: Bundle,
        cuda: Cuda,
        *,
        kernels: Callable[[Cuda, Mapping[str, object]], Kernels] = CudaKernels,
        products: Callable[[Cuda], Products] = Cublas,
    ) -> None:
        """Compile the kernels and upload the weights.

        Raises BackendError where the kernels do not compile or the device has too little memory, and BundleError for a file that
        is not this bundle's native weights.
        """
        file = bundle.native_file(Precision.FP16)
        model = NativeModel.open(file)
        model.check_belongs(file, bundle.manifest, Precision.FP16)
        self.cuda = cuda
        self.dims = dims = model.dims
        self.layout = PackedLayout(
            most_tokens=MAX_TOKENS,
            most_rows=MAX_ROWS,
            longest=dims.positions,
            vocab=dims.vocab,
            types=dims.types,
            padding=dims.padding,
        )
        macros = {
            "HIDDEN": dims.hidden,
            "WIDTH": dims.width,
            "HEADS": dims.heads,
            "HEAD": dims.head,
            "ATTENTION_WIDTH": dims.attention_width,
            "TYPES": dims.types,
            "EPSILON": f"{dims.epsilon!r}f",
            "LABELS": dims.labels,
            "DENSE": dims.dense,
            "ACTIVATION": ACTIVATIONS.index(dims.activation) if dims.dense > 1 else 0,
        }
        self._prepared: OrderedDict[tuple[int, int, int, bool, bool], OneProduct] = OrderedDict()
        with ExitStack() as opened:
            self.kernels = kernels(cuda, macros)
            opened.callback(self.kernels.close)
            self._products = products(cuda)
            opened.callback(self._products.close)
            opened.callback(self._close_products)
            names = [name for name, _, _ in dims.tensors()]
            self.weights = self._upload(dict(zip(names, model.arrays, strict=True)), opened)
            self._opened = opened.pop_all()
        self.offsets, self.workspace = self._arena(self.layout.largest[0])

    def context(self, stream: int, workspace: int) -> "NativeGpuContext":
        """See `GpuExecutor.context`."""
        return NativeGpuContext(self, stream, workspace)

    def product(self, rows: int, inputs: int, outputs: int, *, gelu: bool = False, single: bool = False) -> OneProduct:
        """Return a product from the cache, or prepare it, which takes cuBLAS 0.1 ms."""
        key = (rows, inputs, outputs, gelu, single)
        if key not in self._prepared:
            if len(self._prepared) == MAX_PRODUCTS:
                self._prepared.popitem(last=False)[1].close()
            self._prepared[key] = self._products.product(rows, inputs, outputs, gelu=gelu, single=single)
        self._prepared.move_to_end(key)
        return self._prepared[key]

    def close(self) -> None:
        """See `GpuExecutor.close`."""
        self._opened.close()

    def _close_products(self) -> None:
        while self._prepared:
            self._prepared.popitem()[1].close()

    def _arena(self, largest: Shape) -> tuple[dict[str, int], int]:
        """Return the offset of each intermediate result in a context's workspace, and the size of the workspace, in bytes.

        `first*` are of each pair's first token, in the last layer.
        """
        rows, tokens = largest
        dims = self.dims
        width, attention_width = dims.width, dims.attention_width
        by_token = {
            "hidden": width,
            "update": width,  # what is added to hidden before LayerNorm
            "context": attention_width,
            # Query, key and value; then the feed-forward layers' activations, when attention has read those.
            "projected": max(3 * attention_width, dims.intermediate),
        }
        by_row = {
            "first": width,
            "first_query": attention_width,
            "first_context": attention_width,
            "first_update": width,
            "first_projected": dims.intermediate,
        }
        sizes = {name: tokens * channels * HALF.itemsize for name, channels in by_token.items()}
        sizes |= {name: rows * channels * HALF.itemsize for name, channels in by_row.items()}
        sizes |= {"pooled": rows * width * SINGLE.itemsize, "products": WORKSPACE}
        return laid_out(sizes)

    def _upload(self, arrays: Mapping[str, npt.NDArray[Any]], opened: ExitStack) -> dict[str, int]:
        """Copy the weights to the device, and return the device pointer of each."""
        offsets, end = laid_out({name: max(1, array.nbytes) for name, array in arrays.items()})
        try:
            memory = DeviceBuffer(self.cuda, end)
        except BackendError as error:
            free, _ = self.cuda.memory()
            raise BackendError(
                f"the weights need {end / 1e6:,.1f} MB on the device, {free / 1e6:,.1f} MB are free ({error})"
            ) from error
        opened.callback(memory.close)
        with ExitStack() as temporary:
            host = PinnedBuffer(self.cuda, end)
            temporary.callback(host.close)
            stream = Stream(self.cuda)
            temporary.callback(stream.close)
            for name, array in arrays.items():
                host.bytes[offsets[name] :][: array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            stream.upload(host, memory, end)
            stream.synchronize()
        return {name: memory.handle + offset for name, offset in offsets.items()}


class NativeGpuContext:
    """See `GpuContext`. It has no state that depends on a shape."""

    def __init__(self, executor: NativeGpuExecutor, stream: int, workspace: int) -> None:
        self._executor = executor
        self._stream = stream
        self._at = {name: workspace + offset for name, offset in executor.offsets.items()}

    def enqueue(self, shape: Shape, addresses: Mapping[str, int]) -> None:
        """See `GpuContext.enqueue`."""
        rows, tokens = shape
        executor, at = self._executor, self._at
        dims = executor.dims
        width, attention_width = dims.width, dims.attention_width
        weights = executor.weights

        def launch(name: str, warps: int, count: int, *pointers: int) -> None:
            executor.kernels.launch(name, (-(-warps // 4), 1), self._stream, count, *pointers)

        def product(name: str, inputs: int, outputs: int, x: str, y: str, *, count: int, gelu: bool = False) -> None:
            executor.product(count, inputs, outputs, gelu=gelu).enqueue(
                self._stream, at[x], weights[f"{name}.weight"], weights[f"{name}.bias"], at[y], at["products"]
            )

        def normalize(name: str, hidden: str, update: str, count: int) -> None:
            launch(
                "add_normalize",
                count,
                count,
                at[hidden],
                at[update],
                weights[f"{name}.weight"],
                weights[f"{name}.bias"],
            )

        def feed_forward(layer: str, prefix: str, count: int) -> None:
            hidden, update = ("first", "first_update") if prefix else ("hidden", "update")
            normalize(f"{layer}.attention_norm", hidden, update, count)
            product(
                f"{layer}.intermediate", width, dims.intermediate, hidden, f"{prefix}projected", count=count, gelu=True
            )
            product(f"{layer}.output", dims.intermediate, width, f"{prefix}projected", update, count=count)
            normalize(f"{layer}.output_norm", hidden, update, count)

        embeddings = (weights["word"], weights["position"], weights["type"])
        norm = (weights["embedding_norm.weight"], weights["embedding_norm.bias"])
        launch("embed", tokens, tokens, addresses["ids"], addresses["places"], *embeddings, *norm, at["hidden"])
        for number in range(dims.layers - 1):
            layer = f"layer.{number}"
            product(f"{layer}.query_key_value", width, 3 * attention_width, "hidden", "projected", count=tokens)
            tiles = executor.layout.tiles(shape)
            executor.kernels.launch(
                "attend", (tiles, dims.heads), self._stream, tiles, addresses["tiles"], at["projected"], at["context"]
            )
            product(f"{layer}.attention_output", attention_width, width, "context", "update", count=tokens)
            feed_forward(layer, "", tokens)
        layer = f"layer.{dims.layers - 1}"
        product(f"{layer}.key_value", width, 2 * attention_width, "hidden", "projected", count=tokens)
        launch("gather_first", rows, rows, addresses["begins"], at["hidden"], at["first"])
        product(f"{layer}.query", width, attention_width, "first", "first_query", count=rows)
        pairs = (addresses["begins"], addresses["lengths"])
        launch("attend_first", rows * dims.heads, rows, *pairs, at["first_query"], at["projected"], at["first_context"])
        product(f"{layer}.attention_output", attention_width, width, "first_context", "first_update", count=rows)
        feed_forward(layer, "first_", rows)
        pooled = at["first"]
        if dims.dense > 1:
            pooled = at["pooled"]
            executor.product(rows, width, width, single=True).enqueue(
                self._stream, at["first"], weights["head.0.weight"], weights["head.0.bias"], pooled, at["products"]
            )
        last = f"head.{dims.dense - 1}"
        launch("classify", rows, rows, pooled, weights[f"{last}.weight"], weights[f"{last}.bias"], addresses["logits"])

    def close(self) -> None:
        """See `GpuContext.close`."""
