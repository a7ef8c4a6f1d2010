"""`BertContext` and `ModernBertContext`: the kernels and products of an encoder, in the order in which a GPU computes them."""

from collections.abc import Mapping
from typing import Protocol

from ..batching.packed_layout import PackedLayout
from ..bundle.native_weights import GATE_SCALE, ModelDims
from ..bundle.profiles import Shape
from ..cuda.cublas import WORKSPACE, ProductKind
from ..cuda.cuda import laid_out

HALF, SINGLE = 2, 4
"""Bytes of a number in FP16 and in FP32."""
WARP, BLOCK = 32, 128
"""Threads of a warp, and of a block."""


class Kernels(Protocol):
    """See `CudaKernels`."""

    def launch(self, name: str, blocks: tuple[int, int], stream: int, count: int, *pointers: int) -> None:
        """See `CudaKernels.launch`."""

    def close(self) -> None:
        """See `CudaKernels.close`."""


class PreparedProduct(Protocol):
    """See `Product`."""

    def enqueue(self, stream: int, x: int, weight: int, bias: int, y: int, workspace: int, spare: int = 0) -> None:
        """See `Product.enqueue`."""

    def close(self) -> None:
        """See `Product.close`."""


class LoadedModel(Protocol):
    """The part of `NativeGpuExecutor` that an encoder needs."""

    dims: ModelDims
    layout: PackedLayout
    weights: dict[str, int]
    offsets: dict[str, int]
    has_window: list[bool]
    biased: frozenset[str]
    kernels: Kernels

    def product(self, kind: ProductKind) -> PreparedProduct:
        """See `NativeGpuExecutor.product`."""


class NativeGpuContext:
    """See `GpuContext`. It has no state that depends on a shape. Each encoder implements `_bytes` and `_encode`."""

    def __init__(self, executor: LoadedModel, stream: int, workspace: int) -> None:
        self._executor = executor
        self._dims = executor.dims
        self._weights = executor.weights
        self._stream = stream
        self._at = {name: workspace + offset for name, offset in executor.offsets.items()}

    @classmethod
    def arena(cls, dims: ModelDims, largest: Shape) -> tuple[dict[str, int], int]:
        """Return the offset of each intermediate result in a context's workspace, and the size of the workspace, in bytes."""
        rows, tokens = largest
        by_token, by_row = cls._bytes(dims)
        sizes = {name: tokens * size for name, size in by_token.items()}
        sizes |= {name: rows * size for name, size in by_row.items()}
        return laid_out(sizes | {"pooled": rows * dims.width * SINGLE, "products": WORKSPACE})

    @staticmethod
    def _bytes(dims: ModelDims) -> tuple[dict[str, int], dict[str, int]]:
        """Return the bytes of the encoder's intermediate results, by name: per token, and per pair."""
        raise NotImplementedError

    def enqueue(self, shape: Shape, addresses: Mapping[str, int]) -> None:
        """See `GpuContext.enqueue`."""
        dims, at, rows = self._dims, self._at, shape[0]
        pooled = at[self._encode(shape, addresses)]
        if dims.dense > 1:
            head = self._executor.product(ProductKind(rows, dims.width, dims.width, single=True))
            weight, bias = self._parameters("head.0")
            head.enqueue(self._stream, pooled, weight, bias, at["pooled"], at["products"])
            pooled = at["pooled"]
        norm = self._parameters("head.norm") if dims.head_norm else ()
        self._launch(
            "classify", rows, rows, pooled, *norm, *self._parameters(f"head.{dims.dense - 1}"), addresses["logits"]
        )

    def _encode(self, shape: Shape, addresses: Mapping[str, int]) -> str:
        """Enqueue the encoder. Return the intermediate result that the head reads, FP16 [rows, width]."""
        raise NotImplementedError

    def _parameters(self, name: str) -> tuple[int, int]:
        """Return the pointers of a part's weight and bias."""
        return self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]

    def _launch(self, name: str, warps: int, count: int, *pointers: int) -> None:
        blocks = -(-warps * WARP // BLOCK)
        self._executor.kernels.launch(name, (blocks, 1), self._stream, count, *pointers)

    def _attend(self, name: str, shape: Shape, addresses: Mapping[str, int], *pointers: int) -> None:
        tiles = self._executor.layout.tiles(shape)
        self._executor.kernels.launch(
            name, (tiles, self._dims.heads), self._stream, tiles, addresses["tiles"], *pointers, self._at["context"]
        )

    def _product(self, name: str, inputs: int, outputs: int, x: str, y: str, *, count: int, gelu: bool = False) -> None:
        kind = ProductKind(count, inputs, outputs, gelu=gelu)
        self._executor.product(kind).enqueue(
            self._stream, self._at[x], *self._parameters(name), self._at[y], self._at["products"]
        )

    def close(self) -> None:
        """See `GpuContext.close`."""


class BertContext(NativeGpuContext):
    """A BERT. The last layer is computed for each pair's first token only, because only that reaches the head."""

    @staticmethod
    def _bytes(dims: ModelDims) -> tuple[dict[str, int], dict[str, int]]:
        width, attention_width = dims.width, dims.attention_width
        by_token = {
            "hidden": width,
            # What is added to `hidden` before LayerNorm. Before the first layer, the embeddings that are to be projected.
            "update": max(width, dims.embedding_width),
            "context": attention_width,
            # Query, key and value. Once attention has read them, the activations of the feed-forward layers.
            "projected": max(3 * attention_width, dims.intermediate),
        }
        by_row = {
            "first": width,
            "first_query": attention_width,
            "first_context": attention_width,
            "first_update": width,
            "first_projected": dims.intermediate,
        }
        return (
            {name: channels * HALF for name, channels in by_token.items()},
            {name: channels * HALF for name, channels in by_row.items()},
        )

    def _encode(self, shape: Shape, addresses: Mapping[str, int]) -> str:
        rows, tokens = shape
        dims, at, weights = self._dims, self._at, self._weights
        width, attention_width = dims.width, dims.attention_width
        embeddings = (weights["word"], weights["position"], weights["type"], *self._parameters("embedding_norm"))
        embedded = "hidden" if dims.embedding is None else "update"
        self._launch("embed", tokens, tokens, addresses["ids"], addresses["places"], *embeddings, at[embedded])
        if dims.embedding is not None:
            self._product("project", dims.embedding_width, width, "update", "hidden", count=tokens)
        for number in range(dims.layers - 1):
            layer = f"layer.{number}"
            self._product(f"{layer}.query_key_value", width, 3 * attention_width, "hidden", "projected", count=tokens)
            self._attend("attend", shape, addresses, at["projected"])
            self._product(f"{layer}.attention_output", attention_width, width, "context", "update", count=tokens)
            self._feed_forward(layer, "", tokens)
        layer = f"layer.{dims.layers - 1}"
        self._product(f"{layer}.key_value", width, 2 * attention_width, "hidden", "projected", count=tokens)
        self._launch("gather_first", rows, rows, addresses["begins"], at["hidden"], at["first"])
        self._product(f"{layer}.query", width, attention_width, "first", "first_query", count=rows)
        pairs = (addresses["begins"], addresses["lengths"])
        self._launch(
            "attend_first", rows * dims.heads, rows, *pairs, at["first_query"], at["projected"], at["first_context"]
        )
        self._product(f"{layer}.attention_output", attention_width, width, "first_context", "first_update", count=rows)
        self._feed_forward(layer, "first_", rows)
        return "first"

    def _feed_forward(self, layer: str, prefix: str, count: int) -> None:
        width, intermediate = self._dims.width, self._dims.intermediate
        hidden, update = ("first", "first_update") if prefix else ("hidden", "update")
        wide = f"{prefix}projected"
        self._normalize(f"{layer}.attention_norm", hidden, update, count)
        self._product(f"{layer}.intermediate", width, intermediate, hidden, wide, count=count, gelu=True)
        self._product(f"{layer}.output", intermediate, width, wide, update, count=count)
        self._normalize(f"{layer}.output_norm", hidden, update, count)

    def _normalize(self, name: str, hidden: str, update: str, count: int) -> None:
        self._launch("add_normalize", count, count, self._at[hidden], self._at[update], *self._parameters(name))


class ModernBertContext(NativeGpuContext):
    """A ModernBERT. Products add to its residual sums in FP32; everything else is stored in FP16 between kernels.

    If the head reads `[CLS]`, the last layer is computed for each pair's first token only, except the keys and values.
    """

    @staticmethod
    def _bytes(dims: ModelDims) -> tuple[dict[str, int], dict[str, int]]:
        def of(widest: int) -> dict[str, int]:
            return {
                "sums": dims.width * SINGLE,
                "normalized": dims.width * HALF,
                # The output of attention. Once that has been added to the sums, the output of the gates.
                "context": max(dims.attention_width, dims.intermediate) * HALF,
                # Query, key and value, later values and gates. Products that are timed write their sums here.
                "projected": max(widest * HALF, dims.width * SINGLE),
            }

        wide = 2 * dims.intermediate
        by_row = {f"first_{name}": size for name, size in of(wide).items()}
        return of(max(3 * dims.attention_width, wide)), by_row

    def _encode(self, shape: Shape, addresses: Mapping[str, int]) -> str:
        rows, tokens = shape
        dims, at = self._dims, self._at
        pairs = (addresses["begins"], addresses["lengths"])
        norm = self._parameters("embedding_norm")
        word = self._weights["word"]
        self._launch("embed", tokens, tokens, addresses["ids"], word, *norm, at["sums"], at["normalized"])
        for number in range(dims.layers):
            layer, has_window = f"layer.{number}", self._executor.has_window[number]
            angles = self._weights[f"rotary.{'sliding' if has_window else 'full'}_attention"]
            self._product(
                *(f"{layer}.query_key_value", dims.width, 3 * dims.attention_width, "normalized", "projected"),
                count=tokens,
            )
            planes = tokens * dims.attention_width // 2
            self._launch("rotary_keys", -(-planes // (8 * WARP)), tokens, addresses["places"], angles, at["projected"])
            if number == dims.layers - 1 and dims.pooling == "cls":
                break
            self._attend("attend_window" if has_window else "attend", shape, addresses, at["projected"], angles)
            self._after_attention(number, "", tokens)
            if number < dims.layers - 1:
                self._normalize(dims.norms_of(number)[1], "", tokens)
        if dims.pooling == "cls":
            self._launch("attend_first", rows * dims.heads, rows, *pairs, at["projected"], at["first_context"])
            self._launch("gather_first", rows, rows, addresses["begins"], at["sums"], at["first_sums"])
            self._after_attention(dims.layers - 1, "first_", rows)
            self._normalize("final_norm", "first_", rows)
        else:
            mean = (*pairs, at["sums"], *self._parameters("final_norm"), at["first_normalized"])
            self._executor.kernels.launch("mean", (rows, 1), self._stream, rows, *mean)
        return "first_normalized"

    def _after_attention(self, number: int, prefix: str, count: int) -> None:
        """Add attention's output layer and the feed-forward part to the sums."""
        dims, layer = self._dims, f"layer.{number}"
        context, wide = f"{prefix}context", f"{prefix}projected"
        self._add(f"{layer}.attention_output", dims.attention_width, prefix, count)
        self._normalize(dims.norms_of(number)[0], prefix, count)
        self._product(
            f"{layer}.intermediate", dims.width, 2 * dims.intermediate, f"{prefix}normalized", wide, count=count
        )
        parts = count * dims.intermediate // 8
        self._launch("gate", -(-parts // WARP), count, self._at[wide], self._at[context])
        self._add(f"{layer}.output", dims.intermediate, prefix, count, scale=GATE_SCALE)

    def _normalize(self, name: str, prefix: str, count: int) -> None:
        sums, normalized = self._at[f"{prefix}sums"], self._at[f"{prefix}normalized"]
        self._launch("normalize", count, count, sums, *self._parameters(name), normalized)

    def _add(self, name: str, inputs: int, prefix: str, count: int, *, scale: int = 1) -> None:
        """Add a linear layer of `context` times `scale` to the sums.

        A bias of zeros, as in published models, is left out. According to NVIDIA, cuBLAS performs best with a bias only if the
        product is not added to anything.
        """
        biased = name in self._executor.biased
        kind = ProductKind(count, inputs, self._dims.width, single=True, adds=True, biased=biased, scale=scale)
        x, sums, spare = (self._at[f"{prefix}{buffer}"] for buffer in ("context", "sums", "projected"))
        parameters = self._parameters(name)
        self._executor.product(kind).enqueue(self._stream, x, *parameters, sums, self._at["products"], spare)
