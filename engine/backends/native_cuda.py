"""`NativeGpuExecutor`: crossrt's own kernels on a GPU, in FP16.

cuBLAS computes the matrix products, and engine/kernels/native/encoder.cu everything between them. The pairs of a batch are
stored one after the other without padding. `native_cuda_encoders` defines the order of kernels and products.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..batching.packed_layout import PackedLayout
from ..bundle.bundle import Bundle
from ..bundle.native_weights import ACTIVATIONS, GATE_SCALE, ModelDims, NativeModel
from ..cuda.cublas import Cublas, ProductKind
from ..cuda.cuda import Cuda, DeviceBuffer, PinnedBuffer, Stream, laid_out
from ..cuda.cuda_kernels import CudaKernels
from ..errors import BackendError
from ..precision import Precision
from .native_cuda_encoders import BertContext, Kernels, ModernBertContext, NativeGpuContext, PreparedProduct

MAX_TOKENS = 32_768
"""Tokens of the largest batch, unless a single pair may have more. Smaller batches take longer per token; see
docs/decisions/0015."""
MAX_ROWS = 4_096
"""Pairs of the largest batch."""
MAX_PRODUCTS = 2_048
"""Most prepared products in the cache, which evicts the least recently used."""
CONTEXTS = {"bert": BertContext, "modernbert": ModernBertContext}
"""Architecture -> the context that computes it."""


class ProductLibrary(Protocol):
    """See `Cublas`."""

    def product(self, kind: ProductKind) -> PreparedProduct:
        """See `Cublas.product`."""

    def close(self) -> None:
        """See `Cublas.close`."""


class NativeGpuExecutor:
    """See `GpuExecutor`. All lanes share one copy of the weights on the device, and one cache of prepared products."""

    lanes = 2
    graphs = 256
    batch_cost = 0  # no batch is padded, so smaller batches gain nothing
    output = np.dtype(np.float32)

    def __init__(
        self,
        bundle: Bundle,
        cuda: Cuda,
        *,
        kernels: Callable[[Cuda, Mapping[str, object]], Kernels] = CudaKernels,
        products: Callable[[Cuda], ProductLibrary] = Cublas,
    ) -> None:
        """Compile the kernels and upload the weights.

        Raises BackendError if the kernels do not compile or the device has too little memory, and BundleError for a file that is
        not this bundle's native weights.
        """
        file = bundle.native_file(Precision.FP16)
        model = NativeModel.open(file)
        model.check_belongs(file, bundle.manifest, Precision.FP16)
        self.cuda = cuda
        self.dims = dims = model.dims
        self.layout = PackedLayout(
            max_tokens=max(MAX_TOKENS, dims.positions),
            max_rows=MAX_ROWS,
            max_length=dims.positions,
            vocab=dims.vocab,
            types=dims.types,
            padding=dims.padding,
        )
        arrays = dict(zip((name for name, _, _ in dims.tensors()), model.arrays, strict=True))
        self.has_window: list[bool] = arrays["has_window"].astype(bool).tolist() if dims.is_modern else []
        self.biased = frozenset(
            name.removesuffix(".bias") for name, array in arrays.items() if name.endswith(".bias") and array.any()
        )
        """Names of the layers whose bias is not zero everywhere."""
        self._prepared: OrderedDict[ProductKind, PreparedProduct] = OrderedDict()
        with ExitStack() as opened:
            self.kernels = kernels(cuda, macros_of(dims, self.has_window))
            opened.callback(self.kernels.close)
            self._products = products(cuda)
            opened.callback(self._products.close)
            opened.callback(self._close_products)
            self.weights = self._upload(arrays, opened)
            self._opened = opened.pop_all()
        self._context = CONTEXTS[dims.architecture]
        self.offsets, self.workspace = self._context.arena(dims, self.layout.max_shapes[0])

    def context(self, stream: int, workspace: int) -> NativeGpuContext:
        """See `GpuExecutor.context`."""
        return self._context(self, stream, workspace)

    def product(self, kind: ProductKind) -> PreparedProduct:
        """Return a product from the cache, or prepare it, which takes cuBLAS 0.1 ms."""
        if kind not in self._prepared:
            if len(self._prepared) == MAX_PRODUCTS:
                self._prepared.popitem(last=False)[1].close()
            self._prepared[kind] = self._products.product(kind)
        self._prepared.move_to_end(kind)
        return self._prepared[kind]

    def close(self) -> None:
        """See `GpuExecutor.close`."""
        self._opened.close()

    def _close_products(self) -> None:
        while self._prepared:
            self._prepared.popitem()[1].close()

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


def macros_of(dims: ModelDims, has_window: Sequence[bool]) -> dict[str, object]:
    """Return the preprocessor definitions that the kernels are compiled with. `encoder.cu` explains them."""
    return {
        "HIDDEN": dims.hidden,
        "WIDTH": dims.width,
        "EMBEDDING": dims.hidden if dims.embedding is None else dims.embedding,
        "EMBEDDING_WIDTH": dims.embedding_width,
        "HEADS": dims.heads,
        "HEAD": dims.head,
        "ATTENTION_WIDTH": dims.attention_width,
        "INTERMEDIATE": dims.intermediate,
        "GATE_SCALE": GATE_SCALE,
        "TYPES": dims.types,
        "EPSILON": f"{dims.epsilon!r}f",
        "LABELS": dims.labels,
        "DENSE": dims.dense,
        "ACTIVATION": ACTIVATIONS.index(dims.activation) if dims.dense > 1 else 0,
        "HEAD_NORM": int(dims.head_norm),
        "MODERN": int(dims.is_modern),
        "WINDOW": dims.window,
        "FIRST_SEES": dims.window + 1 if has_window and has_window[-1] else dims.positions,
    }
