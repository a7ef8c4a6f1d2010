"""`onnx_from_checkpoint`: the checkpoint's encoder and head, written as an ONNX graph.

All supported trunks are one post-LayerNorm encoder (Devlin et al. 2019, arXiv:1810.04805, and Vaswani et al. 2017,
arXiv:1706.03762), so the graph is written directly from the weights instead of being traced. That gives plain
operators, names that a person can read, the attention mask made once, and no dependence on the version of
transformers. docs/design.md has the comparison with PyTorch's exporters; the parity check compares every export with
transformers' own model.

Only `[CLS]` reaches the head, so the last layer computes keys and values for all tokens but everything after them for
the first token alone. The logits are the same; of a 6-layer model it saves a seventh of the work, of a 2-layer model
two fifths.
"""

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..engine.errors import CheckpointError
from .checkpoint import Checkpoint
from .heads import HEAD_LAYERS
from .numerics import FLOATS, FP32, HALF_SMALLEST, Numerics

OPSET = 17  # the lowest with LayerNormalization, and the highest that TensorRT 8.6 parses
OPSET_OF_HALF_SCALES = 19  # the lowest whose QuantizeLinear takes FP16
IR_VERSIONS = {OPSET: 8, OPSET_OF_HALF_SCALES: 9}
EXTERNAL_DATA_ABOVE = 1_900_000_000  # bytes; protobuf ends at 2 GiB


def onnx_from_checkpoint(checkpoint: Checkpoint, path: Path, numerics: Numerics = FP32) -> None:
    """Write the ONNX model of a checkpoint, computed as `numerics` says.

    Inputs `input_ids`, `attention_mask` and, where the model has them, `token_type_ids`: int64 [batch, sequence], both
    dynamic. Output `logits`: float32 [batch, labels], in every precision. Weights lie in the file, or beside it as
    `<file>.data` when they are larger than protobuf can hold. Raises CheckpointError for weights that are NaN or Inf.
    """
    save(graph_of(checkpoint, numerics), path)
    onnx.checker.check_model(str(path))


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a model, with its weights beside it as `<path>.data` when they are larger than protobuf can hold."""
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if size > EXTERNAL_DATA_ABOVE:
        onnx.save_model(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=1024)
    else:
        onnx.save_model(model, path)


def graph_of(checkpoint: Checkpoint, numerics: Numerics = FP32) -> onnx.ModelProto:
    """Return the model as a protobuf in memory."""
    dimensions = checkpoint.dimensions
    graph = _Graph(checkpoint, numerics)
    hidden = graph.embeddings()
    mask = graph.additive_mask()
    for number in range(dimensions.layers):
        hidden = graph.layer(number, hidden, mask, cls_alone=number == dimensions.layers - 1)
    graph.head(hidden)
    inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if checkpoint.token_types else [])]
    proto = helper.make_graph(
        graph.nodes,
        "cross_encoder",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in inputs],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", checkpoint.labels])],
        graph.initializers,
    )
    opset = OPSET_OF_HALF_SCALES if numerics.half and numerics.quantized else OPSET
    return helper.make_model(
        proto,
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=IR_VERSIONS[opset],
        producer_name="crossrt",
    )


class _Graph:
    """Nodes and initializers as they are added. Every tensor is called after the part of the model that makes it.

    Each node is typed as it is added: its floating-point inputs are brought to the type that `numerics` gives its
    output, by a Cast where they have another, and weights are stored in the type that they are used in.
    """

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        self.checkpoint = checkpoint
        self.numerics = numerics
        dimensions = checkpoint.dimensions
        self._head = dimensions.hidden // dimensions.heads
        self._padded_head = -(-self._head // numerics.head_multiple) * numerics.head_multiple
        self._all_heads = dimensions.heads * self._padded_head
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._constants: dict[str, npt.NDArray[Any]] = {}
        self._types: dict[str, int] = {}
        self._origins: dict[str, str] = {}
        self._written: set[str] = set()

    # -- the model

    def embeddings(self) -> str:
        """Sum of word, position and token type embeddings, normalised: [batch, sequence, hidden]."""
        word = self.add("Gather", ["input_ids"], "embeddings.word", weights=("word.weight",))
        table = self.checkpoint.tensor("position.weight")
        if self.checkpoint.layout.prefix == "roberta.":
            position = self._roberta_positions(table)
        else:
            shape = self.add("Shape", ["input_ids"], "embeddings.length", start=1, end=2)
            position = self.add(
                "Slice",
                [
                    self.constant("position.weight", table),
                    self.integers("zero", [0]),
                    shape,
                    self.integers("axis_0", [0]),
                ],
                "embeddings.position",
            )
        total = self.add("Add", [word, position], "embeddings.word_position")
        if self.checkpoint.token_types:
            kind = self.add("Gather", ["token_type_ids"], "embeddings.type", weights=("type.weight",))
            total = self.add("Add", [total, kind], "embeddings.sum")
        elif self.checkpoint.layout.token_types:
            row = self.constant("type.weight.0", self.checkpoint.tensor("type.weight")[0])
            total = self.add("Add", [total, row], "embeddings.sum")
        normed = self.norm("embedding_norm", total)
        if self.checkpoint.has("project"):
            return self.linear("project", normed)
        return normed

    def _roberta_positions(self, table: npt.NDArray[np.float32]) -> str:
        """RoBERTa counts positions over the tokens that are not padding, from the padding id + 1."""
        pad = self.integers("pad_id", np.array(self.checkpoint.pad_token_id))
        real = self.add("Equal", ["input_ids", pad], "positions.is_pad")
        real = self.add("Not", [real], "positions.is_real")
        real = self.add("Cast", [real], "positions.real", to=TensorProto.INT64)
        count = self.add("CumSum", [real, self.integers("axis_1", np.array(1))], "positions.count")
        count = self.add("Mul", [count, real], "positions.masked")
        ids = self.add("Add", [count, pad], "positions.ids")
        return self.add("Gather", [self.constant("position.weight", table), ids], "embeddings.position")

    def additive_mask(self) -> str:
        """0 for tokens and the type's lowest number for padding, [batch, 1, 1, sequence]; made once."""
        mask = self.add("Unsqueeze", ["attention_mask", self.integers("axes_1_2", [1, 2])], "mask.unsqueezed")
        mask = self.add("Cast", [mask], "mask.float", to=self.numerics.type_of("mask.float"))
        inverted = self.add("Sub", [self.constant("one", np.float32(1)), mask], "mask.inverted")
        # Of the narrower type throughout: -inf would turn a row to NaN.
        lowest = np.float32(np.finfo(np.float16 if self.numerics.half else np.float32).min)
        return self.add("Mul", [inverted, self.constant("lowest", lowest)], "mask.additive")

    def layer(self, number: int, hidden: str, mask: str, *, cls_alone: bool) -> str:
        """One encoder layer, [batch, sequence, hidden]; with `cls_alone` its output is [batch, 1, hidden]."""
        name = f"layer.{number}"
        query_input = hidden
        if cls_alone:
            query_input = self.add(
                "Slice",
                [hidden, self.integers("zero", [0]), self.integers("one_int", [1]), self.integers("axis_1d", [1])],
                f"{name}.cls",
            )
        context = self._attention(name, query_input, hidden, mask)
        attended = self.linear(f"{name}.attention_output", context, heads_in=True)
        attended = self._residual(f"{name}.attention_residual", attended, query_input)
        attended = self.norm(f"{name}.attention_norm", attended)
        wide = self.linear(f"{name}.intermediate", attended)
        wide = self.activation(self.checkpoint.dimensions.hidden_act, wide, f"{name}.activation")
        output = self.linear(f"{name}.output", wide)
        output = self._residual(f"{name}.output_residual", output, attended)
        return self.norm(f"{name}.output_norm", output)

    def _residual(self, name: str, branch: str, skip: str) -> str:
        return self.add("Add", [self.rounded(f"{name}.branch", branch), self.rounded(f"{name}.skip", skip)], name)

    def _attention(self, name: str, query_input: str, hidden: str, mask: str) -> str:
        # softmax(QK^T / sqrt(d)): the scale is folded into the query's weights, which saves an operator a layer and
        # spares the logits the rounding of a runtime that folds it into its matmul (docs/design.md). d is without padding.
        scale = 1 / np.sqrt(self._head)
        if query_input == hidden:
            # One product of three times the width: fewer operators, and ONNX Runtime computes a product of 8 bits in
            # floating point, without a word, when another product reads the same operand.
            query, key, value = self._split(f"{name}.query_key_value", hidden, ("query", "key", "value"), scale)
        else:
            query = self.linear(f"{name}.query", query_input, scales=(scale,), heads_out=True)
            key, value = self._split(f"{name}.key_value", hidden, ("key", "value"))
        query = self._heads(query, perm=[0, 2, 1, 3])
        key = self._heads(key, perm=[0, 2, 3, 1])
        value = self._heads(value, perm=[0, 2, 1, 3])
        scores = self.add("MatMul", [query, key], f"{name}.attention_scores")
        scores = self.add("Add", [scores, mask], f"{name}.attention_masked")
        weights = self.add("Softmax", [scores], f"{name}.attention_weights", axis=-1)
        weights = self.rounded(f"{name}.attention_weights", weights)
        context = self.add("MatMul", [weights, value], f"{name}.context_heads")
        context = self.add("Transpose", [context], f"{name}.context_transposed", perm=[0, 2, 1, 3])
        merged = self.integers("merge_heads", [0, 0, self._all_heads])
        return self.add("Reshape", [context, merged], f"{name}.context")

    def _split(self, name: str, hidden: str, parts: Sequence[str], *scales: float) -> list[str]:
        """Several linear layers of one input as one, [batch, sequence, all heads] each."""
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
        return self.rounded(heads, heads)

    def head(self, hidden: str) -> None:
        """From [batch, 1, hidden], `[CLS]` alone, to `logits` [batch, labels]."""
        layers = HEAD_LAYERS[self.checkpoint.head]
        value = self.add("Squeeze", [hidden, self.integers("axis_1d", [1])], "head.cls")
        for number in range(len(layers.linears)):
            last = number == len(layers.linears) - 1
            value = self.linear(f"head.{number}", value, output="logits" if last else None)
            if not last and layers.activation is not None:
                value = self.activation(layers.activation, value, f"head.{number}.activation")

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
        """x W^T + b, as MatMul and Add over the weight stored [in, out]; in 8 bits where the point `name` is quantised.

        W and b are those of the checkpoint's `layers`, one below the other, each times its scale, 1 unless given: in
        FP64, rounded once. `heads_in` and `heads_out` tell that the channels of x, or of the result, are attention heads,
        which are padded.
        """
        layers = layers or (name,)
        weight, bias = (
            np.concatenate(
                [
                    (self.checkpoint.tensor(f"{layer}.{part}") * np.float64(scale)).astype(np.float32)
                    for layer, scale in zip_longest(layers, scales, fillvalue=1.0)
                ]
            )
            for part in ("weight", "bias")
        )
        quantization = self.numerics.quantized.get(name)
        # A scale that FP16 rounds to 0 is refused by TensorRT, and one of few bits is none.
        least = HALF_SMALLEST if self.numerics.half else 0.0
        if heads_out:
            weight, bias = self._with_padded_heads(weight, axis=0), self._with_padded_heads(bias, axis=0)
        if heads_in:
            weight = self._with_padded_heads(weight, axis=1)
            quantization = quantization and quantization.spread(self._heads_places(weight.shape[1]), weight.shape[1])
        if quantization is not None:
            bias = bias + quantization.bias(weight, least)
        constant = self.constant(f"{name}.bias", bias)
        if quantization is None:
            product = self.add("MatMul", [value, self.constant(f"{name}.weight", weight.T)], f"{name}.product")
            return self.add("Add", [product, constant], output or name)
        # One type for all that belongs to the product: a Cast between would keep it from running in 8 bits.
        kind = self.numerics.type_of(f"{name}.product", [value])
        smooth = value
        if quantization.smoothing is not None:
            smoothing = self.constant(f"{name}.smoothing", 1 / quantization.smoothing)
            smooth = self.add("Mul", [value, smoothing], f"{name}.smoothed", kind=kind)
        if quantization.shift is not None:
            shift = self.constant(f"{name}.shift", quantization.shift)
            smooth = self.add("Sub", [smooth, shift], f"{name}.shifted", kind=kind)
        operands = [self.rounded(name, smooth, kind), self._weight(name, *quantization.weight(weight, least), kind)]
        product = self.add("MatMul", operands, f"{name}.product", kind=kind)
        if not quantization.kept:
            return self.add("Add", [product, constant], output or name)
        # The outlying channels in floating point; the bias joins them, so that the large tensor is passed over once.
        channels = self.integers(f"{name}.channels", quantization.kept)
        kept = self.add("Gather", [value, channels], f"{name}.kept", kind=kind, axis=2)
        kept_weight = self.constant(f"{name}.kept_weight", weight[:, list(quantization.kept)].T)
        kept = self.add("MatMul", [kept, kept_weight], f"{name}.kept_product", kind=kind)
        kept = self.add("Add", [kept, constant], f"{name}.kept_biased", kind=kind)
        return self.add("Add", [product, kept], output or name)

    def _heads_places(self, channels: int) -> npt.NDArray[np.int64]:
        """Where each of the checkpoint's channels lies among so many of padded heads."""
        return np.arange(channels).reshape(-1, self._padded_head)[:, : self._head].reshape(-1)

    def _with_padded_heads(self, values: npt.NDArray[np.float32], *, axis: int) -> npt.NDArray[np.float32]:
        """Put zeros behind each head of `axis`, which holds the heads of one or several projections."""
        shape = list(values.shape)
        shape[axis] = shape[axis] // self._head * self._padded_head
        padded = np.zeros(shape, dtype=values.dtype)
        np.moveaxis(padded, axis, 0)[self._heads_places(shape[axis])] = np.moveaxis(values, axis, 0)
        return padded

    def rounded(self, point: str, value: str, kind: int | None = None) -> str:
        """Return the tensor as it is after 8 bits, by QuantizeLinear and DequantizeLinear; itself at any other point.

        `kind` is the type that it is given back in, its own unless given.
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
        """A weight [in, out] from 8 bits, one scale an output channel."""
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

    def norm(self, name: str, value: str) -> str:
        """LayerNorm over the last axis."""
        epsilon = self.checkpoint.dimensions.norm_eps
        weights = (f"{name}.weight", f"{name}.bias")
        constants = [self.constant(weight, self.checkpoint.tensor(weight)) for weight in weights]
        return self.add("LayerNormalization", [value, *constants], name, axis=-1, epsilon=epsilon)

    def activation(self, kind: str, value: str, name: str) -> str:
        """GELU (exact, by erf: Hendrycks and Gimpel 2016, arXiv:1606.08415), its tanh form, ReLU or tanh."""
        if kind == "tanh":
            return self.add("Tanh", [value], name)
        if kind == "relu":
            return self.add("Relu", [value], name)
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

    # -- nodes

    def add(
        self,
        operator: str,
        inputs: Sequence[str],
        output: str,
        *,
        weights: Sequence[str] = (),
        kind: int | None = None,
        **attributes: Any,
    ) -> str:
        """Add a node that makes `output`; `weights` are tensors of the checkpoint that come before the inputs.

        `kind` is the floating-point type it is computed in; without, `numerics` says.
        """
        names = [*(self.constant(name, self.checkpoint.tensor(name)) for name in weights), *inputs]
        floats = [name for name in names if self._types.get(name) in FLOATS]
        if operator == "Cast":
            self._types[output] = attributes["to"]
        elif floats:
            # What came through 8 bits is as large as it was before.
            computed = [self._origins.get(name, name) for name in floats if name not in self._constants]
            weights_used = [self._constants[name] for name in floats if name in self._constants]
            kind = kind or self.numerics.type_of(output, computed, weights_used)
            names = [self._in_type(name, kind) for name in names]
            self._types[output] = kind
        for name in names:
            self._write(name)
        self._node(operator, names, output, **attributes)
        return output

    def _node(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))

    def _in_type(self, name: str, kind: int) -> str:
        """Return the tensor's name in the floating-point type `kind`: itself, or a copy."""
        if self._types.get(name) not in FLOATS or self._types[name] == kind:
            return name
        copy = f"{name}.{FLOATS[kind]}"
        if copy not in self._types:
            self._types[copy] = kind
            if name in self._constants:
                self._constants[copy] = self._constants[name].astype(FLOATS[kind])
            else:
                self._node("Cast", [name], copy, to=kind)
        return copy

    def constant(self, name: str, values: npt.ArrayLike) -> str:
        """Know a constant by its name; it is written when a node uses it, in the type that the node computes in."""
        if name not in self._constants:
            array = np.ascontiguousarray(values)
            self._constants[name] = array
            self._types[name] = helper.np_dtype_to_tensor_dtype(array.dtype)
        return name

    def integers(self, name: str, values: npt.ArrayLike) -> str:
        """Know an int64 constant by its name."""
        return self.constant(name, np.asarray(values, dtype=np.int64))

    def _write(self, name: str) -> None:
        if name in self._constants and name not in self._written:
            self._written.add(name)
            self.initializers.append(numpy_helper.from_array(self._constants[name], name))
