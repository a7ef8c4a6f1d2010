"""`EncoderGraph`: a post-LayerNorm encoder and its head, as nodes of an ONNX graph.

BERT, ELECTRA, RoBERTa and DistilBERT have this encoder (Devlin et al. 2019, arXiv:1810.04805, and Vaswani et al. 2017,
arXiv:1706.03762) under different tensor names. What DeBERTa and MPNet add to attention is in `disentangled.py` and `mpnet.py`.
The graphs of other encoders inherit from this one.

In most models only `[CLS]` reaches the head. The last layer of such a model computes keys and values for all tokens, and
everything else only for the first token. The logits do not change. This saves a seventh of the work of a 6-layer model, and two
fifths of a 2-layer model.
"""

import re
from collections.abc import Sequence
from itertools import chain, repeat
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from ...engine.errors import CheckpointError
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.heads import HEAD_LAYERS
from .disentangled import DisentangledAttention
from .mpnet import add_relative_bias
from .numerics import FP16_SMALLEST_NORMAL, Numerics
from .typed_graph import TypedGraph

ONNX_RUNTIME = "com.microsoft"  # the domain of ONNX Runtime's own operators
ATTENTION = ("query", "key", "value", "attention_scores", "attention_masked", "attention_weights", "context")
FUSED_GELUS = {"gelu": "BiasGelu", "gelu_new": "FastGelu", "gelu_pytorch_tanh": "FastGelu"}


class EncoderGraph(TypedGraph):
    """The encoder and its head, part by part."""

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        super().__init__(numerics)
        self.checkpoint = checkpoint
        dimensions = checkpoint.dimensions
        self._head = dimensions.hidden // dimensions.heads
        self._padded_head = -(-self._head // numerics.head_multiple) * numerics.head_multiple
        self._all_heads = dimensions.heads * self._padded_head
        self._scale = 1 / np.sqrt(self._head)
        self._disentangled: DisentangledAttention | None = None
        if dimensions.disentangled is not None:
            self._scale /= dimensions.disentangled.scale
            self._disentangled = DisentangledAttention(self, checkpoint, dimensions.disentangled, self._padded_head)

    def constant(self, name: str, values: npt.ArrayLike) -> str:
        """Register a constant. If layers share their weights (ALBERT), equal constants of two layers are stored once.

        In INT8 nothing is shared: each layer has its own scales, and ONNX Runtime cannot open a file in which two layers share
        some of their constants.
        """
        if self.checkpoint.layout.shared_layers and not self.numerics.quantized:
            first = re.sub(r"^layer\.\d+\.", "layer.shared.", name)
            if first not in self._constants or np.array_equal(self._constants[first], np.asarray(values)):
                name = first
        return super().constant(name, values)

    # -- the model

    def build(self) -> None:
        """Write the whole model."""
        layers = self.checkpoint.dimensions.layers
        cls_layer = layers - 1 if self.checkpoint.dimensions.pooling == "cls" else None
        hidden = self.embeddings()
        mask = self.additive_mask()
        self.relative_positions()
        fused_mask = self.fused_mask() if self.numerics.fused and self.checkpoint.layout.encoder == "bert" else None
        for number in range(layers):
            hidden = self.layer(number, hidden, mask, fused_mask, cls_only=number == cls_layer)
        self.head(hidden)

    def embeddings(self) -> str:
        """Sum of word, position and token type embeddings after LayerNorm, [batch, sequence, hidden]."""
        total = self.add("Gather", [self.checkpoint_constant("word.weight"), "input_ids"], "embeddings.word")
        if self.checkpoint.positions_pass_over_padding:
            total = self.add("Add", [total, self._roberta_positions()], "embeddings.word_position")
        elif self.checkpoint.has("position"):
            position = self.first_rows(
                self.checkpoint_constant("position.weight"), self.length(), "embeddings.position"
            )
            total = self.add("Add", [total, position], "embeddings.word_position")
        if self.checkpoint.token_types:
            kind = self.add("Gather", [self.checkpoint_constant("type.weight"), "token_type_ids"], "embeddings.type")
            total = self.add("Add", [total, kind], "embeddings.sum")
        elif self.checkpoint.has("type"):
            row = self.constant("type.weight.0", self.checkpoint.tensor("type.weight")[0])
            total = self.add("Add", [total, row], "embeddings.sum")
        if self.checkpoint.has("embeddings.project"):  # DeBERTa's projection precedes LayerNorm and has no bias
            weight = self.constant("embeddings.project.weight", self.checkpoint.tensor("embeddings.project.weight").T)
            total = self.add("MatMul", [total, weight], "embeddings.project")
        normed = self.norm("embedding_norm", total)
        return self._projected(normed) if self.checkpoint.has("project") else normed

    def _projected(self, normed: str) -> str:
        """Project embeddings that are narrower than the encoder to its width."""
        if not self.numerics.quantized or self.numerics.fp16:
            return self.linear("project", normed)
        # OpenVINO 2026.4 computes a linear layer incorrectly if its output is scaled and shifted before QuantizeLinear: in an
        # ALBERT with three layers the mean error of the logits was 0.28 instead of 0.003. An operator in between prevents this
        # fusion. (The maximum with the lowest FP32 number changes no value.)
        linear = self.linear("project", normed, output="project.linear")
        return self.add("Max", [linear, self.mask_value()], "project")

    def length(self) -> str:
        """The number of tokens including padding, int64 [1]. The nodes are added once."""
        if not any(node.name == "positions.length" for node in self.nodes):
            # TensorRT 8.6 ignores Shape's attributes `start` and `end` (opset 15).
            shape = self.add("Shape", ["input_ids"], "positions.shape")
            bounds = [self.integers("one_int", [1]), self.integers("two_int", [2]), self.integers("axis_0", [0])]
            self.add("Slice", [shape, *bounds], "positions.length")
        return "positions.length"

    def first_rows(self, table: str, rows: str, output: str) -> str:
        """The first rows of a constant; `rows` is int64 [1]."""
        return self.add("Slice", [table, self.integers("zero", [0]), rows, self.integers("axis_0", [0])], output)

    def _roberta_positions(self) -> str:
        """Embeddings of RoBERTa's positions, which count only tokens that are not padding, from the padding id + 1."""
        pad = self.integers("pad_id", np.array(self.checkpoint.pad_token_id))
        real = self.add("Equal", ["input_ids", pad], "positions.is_pad")
        real = self.add("Not", [real], "positions.is_real")
        real = self.add("Cast", [real], "positions.real", to=TensorProto.INT64)
        count = self.add("CumSum", [real, self.integers("axis_1", np.array(1))], "positions.count")
        count = self.add("Mul", [count, real], "positions.masked")
        ids = self.add("Add", [count, pad], "positions.ids")
        return self.add("Gather", [self.checkpoint_constant("position.weight"), ids], "embeddings.position")

    def mask_value(self) -> str:
        """The value that masks a score: the lowest number of the graph's narrowest type. A row of -inf would become NaN."""
        return self.constant("lowest", np.float32(np.finfo(np.float16 if self.numerics.fp16 else np.float32).min))

    def additive_mask(self) -> str:
        """0 for tokens and the type's lowest number for padding, [batch, 1, 1, sequence], shared by all layers.

        For MPNet the relative-position bias is included, so the shape is [batch, heads, sequence, sequence].
        """
        mask = self.add("Unsqueeze", ["attention_mask", self.integers("axes_1_2", [1, 2])], "mask.unsqueezed")
        mask = self.add("Cast", [mask], "mask.float", to=self.numerics.type_of("mask.float"))
        inverted = self.add("Sub", [self.constant("one", np.float32(1)), mask], "mask.inverted")
        if self.checkpoint.layout.encoder != "mpnet":
            return self.add("Mul", [inverted, self.mask_value()], "mask.additive")
        # Half of the lowest number is low enough, and the bias can be added to it without overflow.
        lowest = np.float32(np.finfo(np.float16 if self.numerics.fp16 else np.float32).min)
        mask = self.add("Mul", [inverted, self.constant("half_lowest", lowest / 2)], "mask.additive")
        return self.add("Add", [mask, add_relative_bias(self, self.checkpoint, self.length())], "mask.biased")

    def relative_positions(self) -> None:
        """Add the nodes that the relative-position terms of all DeBERTa layers share; none for other models."""
        if self._disentangled is not None:
            self._disentangled.add_positions(self.length())

    def fused_mask(self) -> str:
        """The padding mask in the form of ONNX Runtime's fused attention, int32 [batch + 2 (batch + 1)].

        The first [batch] numbers are the tokens of each pair, without padding. The next [batch + 1] are the row at which each
        pair's queries begin in the padded batch, and the row at which the last pair ends. The rest are the same for the keys.

        Of the mask formats that the operator accepts, this one has a fused kernel on every GPU. The graph uses no Shape operator
        here, because it would be computed on the CPU and its result copied to the GPU.
        """
        rows = self.integers("axis_1d", [1])
        real = self.add("ReduceSum", ["attention_mask", rows], "mask.tokens", keepdims=0)
        zeros = self.add("Sub", ["attention_mask", "attention_mask"], "mask.zeros")
        ones = self.add("Add", [zeros, self.integers("one_scalar", 1)], "mask.ones")
        widths = self.add("ReduceSum", [ones, rows], "mask.widths", keepdims=0)
        ends = self.add("CumSum", [widths, self.integers("zero_scalar", 0)], "mask.ends")
        begins = self.add("Concat", [self.integers("zero", [0]), ends], "mask.begins", axis=0)
        together = self.add("Concat", [real, begins, begins], "mask.together", axis=0)
        return self.add("Cast", [together], "mask.bounds", to=TensorProto.INT32)

    def layer(self, number: int, hidden: str, mask: str, fused_mask: str | None, *, cls_only: bool) -> str:
        """One encoder layer, [batch, sequence, hidden]; with `cls_only` its output is [batch, 1, hidden].

        With `fused_mask` its attention is one fused operator, except with `cls_only`, where attention is too small to matter.
        """
        name = f"layer.{number}"
        query_input = hidden
        if cls_only:
            query_input = self.add(
                "Slice",
                [hidden, self.integers("zero", [0]), self.integers("one_int", [1]), self.integers("axis_1d", [1])],
                f"{name}.cls",
            )
            if self.checkpoint.layout.encoder == "mpnet":
                row = [self.integers(key, [value]) for key, value in (("zero", 0), ("one_int", 1), ("axis_2d", 2))]
                mask = self.add("Slice", [mask, *row], "mask.cls")
        if fused_mask is not None and not cls_only and self._fuses(hidden, *(f"{name}.{part}" for part in ATTENTION)):
            context = self._fused_attention(name, hidden, fused_mask)
        else:
            context = self._attention(name, query_input, hidden, mask)
        attended = self._residual_norm(
            f"{name}.attention_output", f"{name}.attention", context, query_input, heads_in=True
        )
        wide = self._intermediate(name, attended)
        return self._residual_norm(f"{name}.output", f"{name}.output", wide, attended)

    def _residual_norm(self, linear: str, stem: str, value: str, skip: str, *, heads_in: bool = False) -> str:
        """A linear layer, the residual addition of `skip`, and LayerNorm."""
        residual, norm = f"{stem}_residual", f"{stem}_norm"
        if self._fuses(linear, residual):
            product, bias = self._product(linear, value, heads_in=heads_in)
            return self.add(
                "SkipLayerNormalization",
                [product, skip, *self._norm_weights(norm), bias],
                norm,
                domain=ONNX_RUNTIME,
                epsilon=self.checkpoint.dimensions.norm_eps,
            )
        branch = self.quantize_dequantize(f"{residual}.branch", self.linear(linear, value, heads_in=heads_in))
        return self.norm(norm, self.add("Add", [branch, self.quantize_dequantize(f"{residual}.skip", skip)], residual))

    def _intermediate(self, layer: str, value: str) -> str:
        """The first feed-forward layer and its activation."""
        kind, name, linear = self.checkpoint.dimensions.hidden_act, f"{layer}.activation", f"{layer}.intermediate"
        if kind in FUSED_GELUS and self._fuses(name, linear):
            return self.add(FUSED_GELUS[kind], self._product(linear, value), name, domain=ONNX_RUNTIME)
        return self.activation(kind, self.linear(linear, value), name)

    def _attention(self, name: str, query_input: str, hidden: str, mask: str) -> str:
        # The scale of softmax(QK^T / sqrt(d)) is folded into the query's weights. This saves one operator per layer, and avoids
        # the rounding of runtimes that fold the scale into their MatMul (docs/decisions/0004). d does not include padding.
        if query_input == hidden:
            # One MatMul of three times the width has fewer operators. Also, ONNX Runtime silently computes an INT8 MatMul in
            # floating point when another MatMul reads the same operand.
            query, key, value = self._split(f"{name}.query_key_value", hidden, ("query", "key", "value"), self._scale)
        else:
            query = self.linear(f"{name}.query", query_input, scales=(self._scale,), heads_out=True)
            key, value = self._split(f"{name}.key_value", hidden, ("key", "value"))
        query = self._heads(query, perm=[0, 2, 1, 3])
        key = self._heads(key, perm=[0, 2, 3, 1])
        value = self._heads(value, perm=[0, 2, 1, 3])
        return self.attention(name, query, key, value, mask, cls_only=query_input != hidden)

    def attention(self, name: str, query: str, key: str, value: str, mask: str, *, cls_only: bool = False) -> str:
        """Attention over heads [batch, heads, sequence, channels], with transposed keys; returns [batch, sequence, all heads].

        With `cls_only` the only query is `[CLS]`.
        """
        scores = self._scores(name, query, key, cls_only=cls_only)
        scores = self.add("Add", [scores, mask], f"{name}.attention_masked")
        weights = self.add("Softmax", [scores], f"{name}.attention_weights", axis=-1)
        weights = self.quantize_dequantize(f"{name}.attention_weights", weights)
        context = self.add("MatMul", [weights, value], f"{name}.context_heads")
        context = self.add("Transpose", [context], f"{name}.context_transposed", perm=[0, 2, 1, 3])
        merged = self.integers("merge_heads", [0, 0, self._all_heads])
        return self.add("Reshape", [context, merged], f"{name}.context")

    def _scores(self, name: str, query: str, key: str, *, cls_only: bool) -> str:
        """The attention scores before the mask, [batch, heads, queries, keys]."""
        output = f"{name}.attention_scores"
        if self._disentangled is None or not self._disentangled.has_terms:
            return self.add("MatMul", [query, key], output)
        content = self.add("MatMul", [query, key], f"{name}.attention_content")
        rows = self.add("Transpose", [f"{name}.key.split"], f"{name}.key.rows", perm=[0, 2, 1, 3])
        return self._disentangled.add_terms(name, content, query, rows, output, cls_only=cls_only)

    def _fused_attention(self, name: str, hidden: str, fused_mask: str) -> str:
        weight, bias = self._weights([f"{name}.{part}" for part in ("query", "key", "value")], (self._scale,))
        weight, bias = self._with_padded_heads(weight, axis=0), self._with_padded_heads(bias, axis=0)
        weights = self.constant(f"{name}.query_key_value.weight", weight.T)
        return self.add(
            "Attention",
            [hidden, weights, self.constant(f"{name}.query_key_value.bias", bias), fused_mask],
            f"{name}.context",
            domain=ONNX_RUNTIME,
            num_heads=self.checkpoint.dimensions.heads,
            qkv_hidden_sizes=[self._all_heads] * 3,
            scale=1.0,  # the scale is already in the weights; without this attribute the operator applies its default scale
        )

    def _split(self, name: str, hidden: str, parts: Sequence[str], *scales: float) -> list[str]:
        """Compute several linear layers of one input as one MatMul, and split the result: [batch, sequence, all heads] each."""
        layer = name.rpartition(".")[0]
        names = [f"{layer}.{part}" for part in parts]
        product = self.linear(name, hidden, layers=names, scales=scales, heads_out=True)
        ends = [self.integers(f"heads_x_{n}", [n * self._all_heads]) for n in range(len(parts) + 1)]
        axis = self.integers("axis_2d", [2])
        return [self.add("Slice", [product, ends[n], ends[n + 1], axis], part) for n, part in enumerate(names)]

    def _heads(self, projected: str, *, perm: Sequence[int]) -> str:
        split = self.integers("split_heads", [0, 0, self.checkpoint.dimensions.heads, self._padded_head])
        heads = self.add("Reshape", [projected, split], f"{projected}.split")
        heads = self.add("Transpose", [heads], f"{projected}.heads", perm=perm)
        return self.quantize_dequantize(heads, heads)

    def head(self, hidden: str) -> None:
        """Compute `logits` [batch, labels] from `hidden`: [batch, 1, hidden] of `[CLS]`, or [batch, sequence, hidden] if the head
        reads the mean."""
        checkpoint, linears = self.checkpoint, HEAD_LAYERS[self.checkpoint.head].linears
        of_cls = checkpoint.dimensions.pooling == "cls"
        pooled = hidden if of_cls else self._mean(hidden)
        value = self.add("Squeeze", [pooled, self.integers("axis_1d", [1])], "head.cls" if of_cls else "head.pooled")
        for number in range(len(linears)):
            last = number == len(linears) - 1
            value = self.linear(f"head.{number}", value, output="logits" if last else None)
            if not last and checkpoint.head_activation is not None:
                value = self.activation(checkpoint.head_activation, value, f"head.{number}.activation")
            if not last and checkpoint.has("head.norm"):
                value = self.norm("head.norm", value, epsilon=checkpoint.head_norm_eps)

    def _mean(self, hidden: str) -> str:
        """The mean of all tokens except padding, [batch, 1, hidden], as one MatMul with a row of 1 / count and 0."""
        real = self.add("Unsqueeze", ["attention_mask", self.integers("axis_1d", [1])], "head.real")
        real = self.add("Cast", [real], "head.real_float", to=self.numerics.type_of("head.real_float"))
        count = self.add("ReduceSum", [real, self.integers("axis_2d", [2])], "head.count", keepdims=1)
        shares = self.add("Div", [real, count], "head.shares")
        return self.add("MatMul", [shares, hidden], "head.mean")

    # -- the parts

    def linear(
        self,
        name: str,
        value: str,
        *,
        layers: Sequence[str] = (),
        scales: Sequence[float] = (),
        heads_in: bool = False,
        heads_out: bool = False,
        output: str | None = None,
    ) -> str:
        """x W^T + b, as MatMul and Add with the weight stored as [in, out]; quantized if the point `name` is.

        W and b are those of the checkpoint's `layers`, concatenated along the outputs. Each is multiplied by its scale (1 by
        default) in FP64 and rounded once. `heads_in` and `heads_out` say that the channels of x or of the result are attention
        heads, which are padded.
        """
        weight, bias = self._weights(layers or (name,), scales)
        quantization = self.numerics.quantized.get(name)
        # TensorRT rejects a scale that FP16 rounds to 0, and a subnormal scale has too few significant bits.
        least = FP16_SMALLEST_NORMAL if self.numerics.fp16 else 0.0
        if heads_out:
            weight, bias = self._with_padded_heads(weight, axis=0), self._with_padded_heads(bias, axis=0)
        if heads_in:
            weight = self._with_padded_heads(weight, axis=1)
            quantization = quantization and quantization.spread(
                self._unpadded_channels(weight.shape[1]), weight.shape[1]
            )
        if quantization is not None:
            bias = bias + quantization.bias(weight, least)
        constant = self.constant(f"{name}.bias", bias)
        if quantization is None and not any(map(self.checkpoint.has_bias, layers or (name,))):
            return self.add("MatMul", [value, self.constant(f"{name}.weight", weight.T)], output or name)
        if quantization is None:
            product = self.add("MatMul", [value, self.constant(f"{name}.weight", weight.T)], f"{name}.product")
            return self.add("Add", [product, constant], output or name)
        # All operators around the MatMul have one type, because a Cast between them would prevent the INT8 kernel.
        kind = self.numerics.type_of(f"{name}.product", [value])
        smooth = value
        if quantization.smoothing_factors is not None:
            smoothing = self.constant(f"{name}.smoothing", 1 / quantization.smoothing_factors)
            smooth = self.add("Mul", [value, smoothing], f"{name}.smoothed", kind=kind)
        if quantization.shift is not None:
            shift = self.constant(f"{name}.shift", quantization.shift)
            smooth = self.add("Sub", [smooth, shift], f"{name}.shifted", kind=kind)
        operands = [
            self.quantize_dequantize(name, smooth, kind),
            self._weight(name, *quantization.weight(weight, least), kind),
        ]
        product = self.add("MatMul", operands, f"{name}.product", kind=kind)
        if not quantization.outlier_channels:
            return self.add("Add", [product, constant], output or name)
        # The outlier channels in floating point. The bias is added to their product, which saves one pass over the large tensor.
        channels = self.integers(f"{name}.channels", quantization.outlier_channels)
        kept = self.add("Gather", [value, channels], f"{name}.kept", kind=kind, axis=2)
        kept_weight = self.constant(f"{name}.kept_weight", weight[:, list(quantization.outlier_channels)].T)
        kept = self.add("MatMul", [kept, kept_weight], f"{name}.kept_product", kind=kind)
        kept = self.add("Add", [kept, constant], f"{name}.kept_biased", kind=kind)
        return self.add("Add", [product, kept], output or name)

    def _product(self, name: str, value: str, *, heads_in: bool = False) -> list[str]:
        """Return x W^T and the constant b, for a fused operator that adds them."""
        weight, bias = self._weights((name,))
        if heads_in:
            weight = self._with_padded_heads(weight, axis=1)
        product = self.add("MatMul", [value, self.constant(f"{name}.weight", weight.T)], f"{name}.product")
        return [product, self.constant(f"{name}.bias", bias)]

    def _fuses(self, *inside: str) -> bool:
        """Tell whether all tensors with these name prefixes can be in one fused operator: none is INT8 or kept in FP32."""
        kept = {*self.numerics.fp32_tensors, *self.numerics.quantized}
        return self.numerics.fused and not any(name.startswith(inside) for name in kept)

    def _weights(
        self, layers: Sequence[str], scales: Sequence[float] = ()
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Weight [out, in] and bias [out] of several layers, concatenated and scaled as described in `linear`.

        A layer without a bias gets zeros.
        """
        weights, biases = [], []
        for layer, scale in zip(layers, chain(scales, repeat(1.0)), strict=False):
            weight = self.checkpoint.tensor(f"{layer}.weight")
            bias = self.checkpoint.tensor(f"{layer}.bias") if self.checkpoint.has_bias(layer) else np.zeros(len(weight))
            weights.append(_scaled(weight, scale))
            biases.append(_scaled(bias, scale))
        if len(weights) == 1:
            return weights[0], biases[0]
        return np.concatenate(weights), np.concatenate(biases)

    def _unpadded_channels(self, channels: int) -> npt.NDArray[np.int64]:
        """Return the index of each of the checkpoint's channels among the `channels` of the padded heads."""
        return np.arange(channels).reshape(-1, self._padded_head)[:, : self._head].reshape(-1)

    def _with_padded_heads(self, values: npt.NDArray[np.float32], *, axis: int) -> npt.NDArray[np.float32]:
        """Pad each head of `axis` with zeros; `axis` holds the heads of one or several projections."""
        if self._padded_head == self._head:
            return values
        shape = list(values.shape)
        shape[axis] = shape[axis] // self._head * self._padded_head
        padded = np.zeros(shape, dtype=values.dtype)
        np.moveaxis(padded, axis, 0)[self._unpadded_channels(shape[axis])] = np.moveaxis(values, axis, 0)
        return padded

    def quantize_dequantize(self, point: str, value: str, kind: int | None = None) -> str:
        """Return the tensor after QuantizeLinear and DequantizeLinear, or unchanged if `point` is not quantized.

        `kind` is the type of the result, by default that of the point.
        """
        quantization = self.numerics.quantized.get(point)
        if quantization is None:
            return value
        scale = self.constant(f"{point}.scale", np.float32(quantization.scale))
        zero = self.constant("zero_int8", np.int8(0))
        kind = kind or self.numerics.type_of(point, [value])
        quantized = self.add("QuantizeLinear", [value, scale, zero], f"{point}.quantized", kind=kind)
        self._types[quantized] = TensorProto.INT8
        self._origins[f"{point}.dequantized"] = value
        return self.add("DequantizeLinear", [quantized, scale, zero], f"{point}.dequantized", kind=kind)

    def _weight(self, name: str, integers: npt.NDArray[np.int8], scales: npt.NDArray[np.float32], kind: int) -> str:
        """An INT8 weight, dequantized to [in, out] with one scale per output channel."""
        return self.add(
            "DequantizeLinear",
            [
                self.constant(f"{name}.weight_int8", integers.T),
                self.constant(f"{name}.weight_scale", scales),
                self.constant(f"{name}.weight_zero", np.zeros(len(scales), dtype=np.int8)),
            ],
            f"{name}.weight_dequantized",
            kind=kind,
            axis=1,
        )

    def norm(self, name: str, value: str, *, epsilon: float | None = None) -> str:
        """LayerNorm over the last axis, with the model's epsilon unless another is given."""
        epsilon = self.checkpoint.dimensions.norm_eps if epsilon is None else epsilon
        return self.add("LayerNormalization", [value, *self._norm_weights(name)], name, axis=-1, epsilon=epsilon)

    def _norm_weights(self, name: str) -> list[str]:
        weight = self.checkpoint_constant(f"{name}.weight")
        if self.checkpoint.has_bias(name):
            return [weight, self.checkpoint_constant(f"{name}.bias")]
        return [weight, self.constant("no_bias", np.zeros(self.checkpoint.dimensions.hidden, dtype=np.float32))]

    def activation(self, kind: str, value: str, name: str) -> str:
        """GELU (exact, by erf: Hendrycks and Gimpel 2016, arXiv:1606.08415), its tanh form, SiLU, ReLU or tanh."""
        if kind == "tanh":
            return self.add("Tanh", [value], name)
        if kind == "relu":
            return self.add("Relu", [value], name)
        if kind == "silu":
            return self.add("Mul", [value, self.add("Sigmoid", [value], f"{name}.sigmoid")], name)
        one, half = self.constant("one", np.float32(1)), self.constant("half", np.float32(0.5))
        if kind == "gelu":
            scaled = self.add("Div", [value, self.constant("sqrt_2", np.float32(np.sqrt(2)))], f"{name}.scaled")
            gate = self.add("Erf", [scaled], f"{name}.erf")
        elif kind in ("gelu_new", "gelu_pytorch_tanh"):
            cube = self.add("Pow", [value, self.constant("three", np.float32(3))], f"{name}.cube")
            cube = self.add("Mul", [cube, self.constant("gelu_cubic", np.float32(0.044715))], f"{name}.cubic")
            inner = self.add("Add", [value, cube], f"{name}.inner")
            inner = self.add(
                "Mul", [inner, self.constant("sqrt_2_pi", np.float32(np.sqrt(2 / np.pi)))], f"{name}.scaled"
            )
            gate = self.add("Tanh", [inner], f"{name}.tanh")
        else:
            raise CheckpointError(f"activation {kind!r} is not supported")
        gate = self.add("Add", [gate, one], f"{name}.gate")
        gated = self.add("Mul", [value, gate], f"{name}.gated")
        return self.add("Mul", [gated, half], name)

    def checkpoint_constant(self, name: str) -> str:
        """Register a tensor of the checkpoint as a constant under its own name."""
        return self.constant(name, self.checkpoint.tensor(name))


def _scaled(values: npt.NDArray[Any], scale: float) -> npt.NDArray[np.float32]:
    """Multiply in FP64 and round once. With a scale of 1 large weights are not copied."""
    return np.asarray(values if scale == 1 else values * np.float64(scale), dtype=np.float32)
