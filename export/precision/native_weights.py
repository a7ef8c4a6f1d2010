"""`native_from_checkpoint`: a checkpoint's weights for the native kernels, in INT8, BF16 or FP32 for CPUs and FP16 for GPUs.

INT8 weights have one scale per output channel and are rounded once, from FP32. Activations need no calibrated ranges, because the
kernels quantize each token with its own range. Calibration decides four things:

- the multipliers of channels (the reciprocals of SmoothQuant's smoothing factors), improved by the score's gradients
- the shifts that center channels (Outlier Suppression+), improved in the same way
- which four input channels of the second feed-forward layer have outliers and stay in FP32
- how weights are rounded (GPTQ)

The other precisions need no calibration.

Shifts cost the kernels nothing. A shift is subtracted from LayerNorm's bias. The linear layers that read LayerNorm's output add
their weights times the shift to their biases. The linear layer whose output is added to LayerNorm's output (the residual
addition) adds the shift itself to its bias. In a ModernBERT only the output of the first LayerNorm, that of the embeddings, has
a residual addition.

Shifts and multipliers of attention's output are folded into the weights and biases of its values, which is possible because the
softmax weights add up to 1. Multipliers between the two feed-forward layers are folded into the weights of the gates in a
ModernBERT. In a BERT the activation function, which is not linear, is in between, so the kernels apply these multipliers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ...calibration.tensor_stats import TensorStats
from ...engine.bundle.native_weights import (
    ACTIVATIONS,
    GPU_ACTIVATIONS,
    OUTLIER_CHANNELS,
    PANEL,
    ModelDims,
    NativeModel,
    hidden_activations,
    padded,
    write,
)
from ...engine.precision import Precision
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.heads import HEAD_LAYERS
from ..checkpoint.modernbert import FULL, SLIDING, ModernBertDimensions, rotary_tables
from .rotation import LANES, inverse_rotated, rotated_moments
from .score_gradients import GradientSample
from .smoothing import Smoothing, optimized_smoothing
from .weight_rounding import rounded

TANH_FORMS = ("gelu_new", "gelu_pytorch_tanh")
"""transformers' names of the tanh approximation of GELU, which the kernels call `gelu_tanh`."""
MAX_GPU_HEAD = 128
"""Maximum number of channels of an attention head on a GPU. A tile's keys and values must fit into 48 KiB of shared memory, which
every block can have, and its queries and accumulators into registers."""

Floats = npt.NDArray[Any]


def can_be_native(checkpoint: Checkpoint, *, for_gpus: bool = False) -> bool:
    """Tell whether the native kernels can compute this model.

    They support the encoders of BERT and ModernBERT with one of `hidden_activations`, on GPUs with attention heads of at most 128
    channels. Pooling by the mean of all tokens is supported only for ModernBERT. LayerNorm in the head must have the encoder's
    epsilon. In a head of two linear layers, the first must have as many outputs as the model has hidden channels.
    """
    dimensions = checkpoint.dimensions
    is_modern = isinstance(dimensions, ModernBertDimensions)
    if is_modern:
        known = _activation(checkpoint.head_activation or "none") in (GPU_ACTIVATIONS if for_gpus else ACTIVATIONS)
    else:
        known = checkpoint.layout.encoder == "bert" and dimensions.pooling == "cls"
    if for_gpus:
        known = known and padded(dimensions.hidden // dimensions.heads) <= MAX_GPU_HEAD
    if checkpoint.has("head.norm"):
        known = known and checkpoint.head_norm_eps == dimensions.norm_eps
    if checkpoint.has("head.1"):
        known = known and len(checkpoint.tensor("head.0.weight")) == dimensions.hidden
    known = known and _activation(dimensions.hidden_act) in hidden_activations(for_gpus=for_gpus, gated=is_modern)
    return known and _are_supported(_dims_of(checkpoint, Precision.FP16 if for_gpus else Precision.FP32))


def _are_supported(dims: ModelDims) -> bool:
    """Tell whether the kernels take dimensions, such as an epsilon of LayerNorm above 0."""
    try:
        dims.check()
    except ValueError:
        return False
    return True


def native_from_checkpoint(
    checkpoint: Checkpoint,
    path: Path,
    precision: Precision,
    stats: Mapping[str, TensorStats] | None = None,
    gradients: Mapping[str, GradientSample] | None = None,
) -> None:
    """Write the file, in INT8, BF16 or FP32 for CPUs, or in FP16 for GPUs.

    Only INT8 uses `stats`, the calibration's statistics of activations by name, and `gradients`, the samples at `gradient_sites`.
    An activation that is in neither is not smoothed or shifted; those between the feed-forward layers need gradients for it.
    Weights that read an activation without statistics are rounded to nearest. Raises CheckpointError for weights that are NaN or
    Inf.
    """
    dims = _dims_of(checkpoint, precision)
    arrays = _ArrayBuilder(checkpoint, dims, stats or {}, gradients or {}).build()
    with path.open("wb") as file:
        write(file, dims, arrays)


def _dims_of(checkpoint: Checkpoint, precision: Precision) -> ModelDims:
    """Return the dimensions of a checkpoint's native file."""
    dimensions = checkpoint.dimensions
    head = dimensions.hidden // dimensions.heads
    layers = HEAD_LAYERS[checkpoint.head]
    modern: dict[str, Any] = {}
    if isinstance(dimensions, ModernBertDimensions):
        modern = {"architecture": "modernbert", "pooling": dimensions.pooling, "window": dimensions.window}
    return ModelDims(
        precision=precision.value,
        hidden=dimensions.hidden,
        heads=dimensions.heads,
        head=padded(head),
        intermediate=padded(dimensions.intermediate),
        layers=dimensions.layers,
        types=len(checkpoint.tensor("type.weight")) if checkpoint.token_types else 0,
        vocab=dimensions.vocab,
        positions=dimensions.positions,
        labels=checkpoint.labels,
        dense=len(layers.linears),
        activation=_activation(checkpoint.head_activation or "none"),
        epsilon=dimensions.norm_eps,
        padding=checkpoint.pad_token_id if checkpoint.positions_pass_over_padding else None,
        head_norm=checkpoint.has("head.norm"),
        embedding=dimensions.embedding if checkpoint.has("project") else None,
        hidden_activation=_activation(dimensions.hidden_act),
        activation_balance=precision == Precision.INT8 and not modern,
        rotated=precision == Precision.INT8,
        **modern,
    )


def _activation(name: str) -> str:
    """Return the kernels' name of an activation function."""
    return "gelu_tanh" if name in TANH_FORMS else name


def with_shifted_logits(model: NativeModel, amount: Floats, path: Path) -> None:
    """Write a model's file with `amount` [labels] added to the last bias of the head, and thus to the logits."""
    names = [name for name, _, _ in model.dims.tensors()]
    arrays = dict(zip(names, model.arrays, strict=True))
    bias = f"head.{model.dims.dense - 1}.bias"
    with path.open("wb") as file:
        write(file, model.dims, arrays | {bias: arrays[bias] + amount})


def gradient_sites(checkpoint: Checkpoint) -> dict[str, tuple[str, ...]]:
    """Return the linear layers that read each tensor in INT8, by the tensor's name.

    If several parts are one module in PyTorch, only the first part is listed.
    """
    sites: dict[str, tuple[str, ...]] = {}
    for number in range(checkpoint.dimensions.layers):
        sites[f"layer.{number}.context"] = (f"layer.{number}.attention_output",)
        sites[f"layer.{number}.activation"] = (f"layer.{number}.output",)
    norm = "embedding_norm"
    if isinstance(checkpoint.dimensions, ModernBertDimensions):
        for number in range(checkpoint.dimensions.layers):
            name = f"layer.{number}"
            sites[f"{name}.attention_norm" if number else norm] = (f"{name}.query",)
            sites[f"{name}.feed_forward_norm"] = (f"{name}.intermediate",)
        return sites
    if checkpoint.has("project"):
        sites[norm] = ("project",)
        norm = "project"
    for number in range(checkpoint.dimensions.layers):
        name = f"layer.{number}"
        parts = ("query", "key", "value") if number < checkpoint.dimensions.layers - 1 else ("query",)
        sites[norm] = tuple(f"{name}.{part}" for part in parts)
        sites[f"{name}.attention_norm"] = (f"{name}.intermediate",)
        norm = f"{name}.output_norm"
    return sites


class _ArrayBuilder:
    """Builds the arrays of `ModelDims.tensors`, by name."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        dims: ModelDims,
        stats: Mapping[str, TensorStats],
        gradients: Mapping[str, GradientSample],
    ) -> None:
        self._tensor = checkpoint.tensor
        self._checkpoint = checkpoint
        self._dims = dims
        self._stats = stats
        self._gradients = gradients
        self._arrays: dict[str, Floats] = {}

    def build(self) -> dict[str, Floats]:
        """Build all arrays."""
        dims = self._dims
        if dims.is_int8:
            self._arrays["kept"] = np.empty((dims.layers, OUTLIER_CHANNELS), dtype=np.int32)
        self._embeddings()
        previous_norm = "embedding_norm" if dims.embedding is None else "project"
        for number in range(dims.layers):
            self._attention(number, previous_norm)
            self._feed_forward(number)
            previous_norm = dims.norms_of(number)[1]
        self._norm(previous_norm, [])
        for number in range(dims.dense):
            weight, bias = self._tensor(f"head.{number}.weight"), self._bias(f"head.{number}")
            if dims.for_gpus and number < dims.dense - 1:
                self._linear(f"head.{number}", weight, bias, dims.width, dims.width)
            else:
                self._arrays |= {f"head.{number}.weight": weight.T, f"head.{number}.bias": bias}
        if dims.head_norm:
            self._arrays["head.norm.weight"] = self._tensor("head.norm.weight")
            self._arrays["head.norm.bias"] = self._bias("head.norm")
        return self._arrays

    def _bias(self, name: str) -> Floats:
        """Return the bias of a part; zeros if it has none."""
        if self._checkpoint.has_bias(name):
            return self._tensor(f"{name}.bias")
        return np.zeros(len(self._tensor(f"{name}.weight")), dtype=np.float32)

    def _embeddings(self) -> None:
        dims, width = self._dims, self._dims.embedding_width
        word = self._tensor("word.weight")
        self._arrays["word"] = _pad_channels(word if dims.precision == "fp32" else _to_fp16(word), width)
        if dims.is_modern:
            self._rotary()
            return
        positions = self._tensor("position.weight")[-dims.position_rows :]  # RoBERTa's begin at the padding id
        types = np.zeros((1, positions.shape[1]), dtype=np.float32)
        if self._checkpoint.layout.token_types:
            types = self._tensor("type.weight")
        self._arrays["type"] = _pad_channels(types[: dims.types], width)
        self._arrays["position"] = _pad_channels(positions if dims.types else positions + types[0], width)

    def _rotary(self) -> None:
        """Build the rotary tables, and the array of which layers have a window."""
        dims, dimensions = self._dims, self._checkpoint.dimensions
        assert isinstance(dimensions, ModernBertDimensions)
        for kind in (FULL, SLIDING):
            tables = rotary_tables(dimensions.thetas[kind], dims.hidden // dims.heads, dims.positions)
            self._arrays[f"rotary.{kind}"] = np.concatenate([_pad_channels(each, dims.head // 2) for each in tables], 1)
        self._arrays["has_window"] = np.array([kind == SLIDING for kind in dimensions.layer_types], dtype=np.int32)

    def _attention(self, number: int, previous_norm: str) -> None:
        """Build the linear layers of a layer's attention, and the LayerNorm or the projection that they read."""
        dims, name = self._dims, f"layer.{number}"
        width, attention_width = dims.width, dims.attention_width
        # Queries are multiplied by the attention scale, and by log2(e) because the kernels' softmax uses powers of 2.
        scales = {"query": np.log2(np.e) / np.sqrt(dims.hidden // dims.heads), "key": 1.0, "value": 1.0}
        parts = {}
        for part, scale in scales.items():
            pad = _pad_rotary_heads if dims.is_modern and part != "value" else _pad_heads
            parts[f"{part}.weight"] = pad(self._tensor(f"{name}.{part}.weight") * scale, dims)
            parts[f"{part}.bias"] = pad(self._bias(f"{name}.{part}") * scale, dims)
        last = number == dims.layers - 1 and not dims.is_modern
        readers = [f"{name}.{part}" for part in (("query",) if last else scales)]
        norm = self._projected(readers) if previous_norm == "project" else self._norm(previous_norm, readers)
        for part in scales:
            parts[f"{part}.bias"] = parts[f"{part}.bias"] + parts[f"{part}.weight"] @ norm.shift
        context = self._smoothing(f"{name}.context", [f"{name}.attention_output"])
        multipliers, shift = _pad_heads(context.multipliers, dims), _pad_heads(context.shift, dims)
        parts["value.weight"] = parts["value.weight"] * multipliers[:, None]
        parts["value.bias"] = (parts["value.bias"] - shift) * multipliers
        if last:
            weight = parts["query.weight"] / norm.multipliers
            self._linear(f"{name}.query", weight, parts["query.bias"], width, attention_width, rotated=True)
            self._last_key_value(name, parts)
        else:
            weight, bias = (np.concatenate([parts[f"{part}.{kind}"] for part in scales]) for kind in ("weight", "bias"))
            moments = self._moments(previous_norm, norm)
            gradients = self._output_moments(
                previous_norm, lambda rows: self._query_key_value_rows(rows, scales, context)
            )
            weight = weight / norm.multipliers
            self._linear(
                f"{name}.query_key_value", weight, bias, width, 3 * attention_width, moments, gradients, rotated=True
            )
        output = self._tensor(f"{name}.attention_output.weight")
        bias = self._bias(f"{name}.attention_output") + output @ context.shift
        output = _pad_heads((output / context.multipliers).T, dims).T
        if number == 0 or not dims.is_modern:
            bias = bias + norm.shift
        moments = self._moments(f"{name}.context", context)
        if moments is not None:
            moments = _pad_heads(_pad_heads(moments, dims).T, dims)
        gradients = self._output_moments(f"{name}.context")
        self._linear(f"{name}.attention_output", output, bias, attention_width, width, moments, gradients, added=True)

    def _feed_forward(self, number: int) -> None:
        """Build a layer's feed-forward layers, and the LayerNorm that they read."""
        dims, name = self._dims, f"layer.{number}"
        width, norm_name = dims.width, dims.norms_of(number)[0]
        norm = self._norm(norm_name, [f"{name}.intermediate"])
        intermediate: Floats = self._tensor(f"{name}.intermediate.weight")
        bias = self._bias(f"{name}.intermediate") + intermediate @ norm.shift
        intermediate = intermediate / norm.multipliers
        outputs = dims.intermediate
        output, multipliers, output_moments = self._feed_forward_output(number)
        if dims.is_modern:
            intermediate[len(multipliers) :] *= multipliers[:, None]
            bias[len(multipliers) :] *= multipliers
            intermediate, bias, outputs = (
                _interleave_gates(intermediate, dims),
                _interleave_gates(bias, dims),
                2 * outputs,
            )
            gate_multipliers = np.append(np.ones(len(multipliers)), multipliers)[:, None]
            gradients = self._output_moments(norm_name, lambda rows: _interleave_gates(rows / gate_multipliers, dims))
        else:
            gradients = self._output_moments(norm_name)
        if dims.activation_balance:
            self._arrays[f"{name}.activation.balance"] = _pad_channels(multipliers, dims.intermediate)
        moments = self._moments(norm_name, norm)
        self._linear(f"{name}.intermediate", intermediate, bias, width, outputs, moments, gradients, rotated=True)
        bias = self._bias(f"{name}.output")
        if not dims.is_modern:
            bias = bias + norm.shift
        gradients = self._output_moments(f"{name}.activation")
        self._linear(
            f"{name}.output",
            output,
            bias,
            dims.intermediate,
            width,
            output_moments,
            gradients,
            added=True,
            rotated=True,
        )

    def _feed_forward_output(self, number: int) -> tuple[Floats, Floats, Floats | None]:
        """Return the second feed-forward layer's weight, the multipliers of its inputs, and the moments for rounding its weights.

        The outlier channels are moved into arrays of their own.
        """
        name = f"layer.{number}"
        weight: Floats = self._tensor(f"{name}.output.weight")
        if not self._dims.is_int8:
            return weight, np.ones(weight.shape[1]), None
        outliers = self._outlier_channels(f"{name}.activation", weight)
        smoothing = self._smoothing(f"{name}.activation", [f"{name}.output"], outliers)
        weight = weight / smoothing.multipliers
        self._arrays["kept"][number] = outliers
        self._arrays[f"{name}.output.kept"] = _pad_channels(weight[:, outliers].T, self._dims.width)
        weight[:, outliers] = 0
        moments = self._moments(f"{name}.activation", smoothing)
        if moments is not None:
            moments[outliers] = moments[:, outliers] = 0
        return weight, smoothing.multipliers, moments

    def _last_key_value(self, name: str, parts: Mapping[str, Floats]) -> None:
        """Build the last layer's keys and values.

        Keys get no bias. It would add the same number to all scores of a query, which softmax cancels.
        """
        dims, width = self._dims, self._dims.width
        if dims.for_gpus:
            weight = np.concatenate([parts["key.weight"], parts["value.weight"]])
            bias = np.concatenate([np.zeros_like(parts["value.bias"]), parts["value.bias"]])
            self._linear(f"{name}.key_value", weight, bias, width, len(weight))
            return
        keys = _pad_channels(parts["key.weight"], width).reshape(dims.heads, dims.head, width).swapaxes(1, 2)
        self._arrays[f"{name}.key.weight"] = np.stack([self._to_element_type(key) for key in keys])
        self._arrays[f"{name}.value.weight"] = self._to_element_type(_pad_channels(parts["value.weight"], width))
        self._arrays[f"{name}.value.bias"] = parts["value.bias"]

    def _projected(self, readers: Sequence[str]) -> Smoothing:
        """Build the embedding projection. Return its smoothing, for which the linear layers `readers` must compensate."""
        norm = self._norm("embedding_norm", ["project"])
        read = self._smoothing("project", readers)
        weight: Floats = self._tensor("project.weight")
        bias = self._bias("project") + weight @ norm.shift - read.shift
        moments, gradients = self._moments("embedding_norm", norm), self._output_moments("embedding_norm")
        weight = weight / norm.multipliers
        inputs, width = self._dims.embedding_width, self._dims.width
        self._linear("project", weight, bias, inputs, width, moments, gradients, rotated=True)
        if self._dims.is_int8:
            self._arrays["project.balance"] = _pad_channels(read.multipliers, self._dims.width)
        return read

    def _norm(self, name: str, readers: Sequence[str]) -> Smoothing:
        """Build a LayerNorm. Return its smoothing, for which the linear layers `readers` must compensate."""
        width = self._dims.embedding_width if name == "embedding_norm" else self._dims.width
        norm = self._smoothing(name, readers)
        self._arrays[f"{name}.weight"] = _pad_channels(self._tensor(f"{name}.weight"), width)
        self._arrays[f"{name}.bias"] = _pad_channels(self._bias(name) - norm.shift, width)
        if self._dims.is_int8:
            self._arrays[f"{name}.balance"] = _pad_channels(norm.multipliers, width)
        return norm

    def _smoothing(self, name: str, readers: Sequence[str], outliers: npt.NDArray[np.int64] | None = None) -> Smoothing:
        """Return the smoothing of a tensor that the linear layers `readers` quantize; zeros and ones if no layer does.

        With `outliers`, the tensor is the one between the two feed-forward layers. It is not shifted, and these channels of it
        are not quantized.
        """
        channels = self._tensor(f"{readers[0]}.weight").shape[1] if readers else len(self._bias(name))
        identity = Smoothing(np.ones(channels), np.zeros(channels))
        stats, sample = self._stats.get(name), self._gradients.get(name)
        if not self._dims.is_int8 or not readers:
            return identity
        weights = np.concatenate([self._tensor(f"{reader}.weight") for reader in readers])
        if outliers is not None:
            if sample is None:
                return identity
            quantized = torch.ones(channels)
            quantized[outliers] = 0
            sample = replace(sample, rows=sample.rows * quantized, gradients=sample.gradients * quantized)
            return optimized_smoothing(identity, sample, weights * quantized.numpy(), shifts=False, rotates=True)
        if stats is not None:
            first = _initial_smoothing(stats.low, stats.high, stats.rows.mean(axis=0, dtype=np.float64), weights)
        elif sample is not None:
            rows = sample.rows.double().numpy()
            first = _initial_smoothing(rows.min(axis=0), rows.max(axis=0), rows.mean(axis=0), weights)
        else:
            return identity
        if sample is None:
            return first
        # [CLS] is quantized twice for queries, keys and values (`Int8::CLS_RESIDUAL` in engine/kernels/native/precision.h).
        is_query, is_context = readers[0].endswith("query"), name.endswith("context")
        return optimized_smoothing(first, sample, weights, cls_is_exact=is_query, rotates=not is_context)

    def _moments(self, name: str, smoothing: Smoothing) -> Floats | None:
        """Return the moments of a tensor as the kernels quantize it, or None if calibration did not observe it."""
        stats = self._stats.get(name)
        return (
            None if stats is None or stats.moments is None else stats.moments.of(smoothing.shift, smoothing.multipliers)
        )

    def _output_moments(self, name: str, placed: Callable[[Floats], Floats] = lambda rows: rows) -> Floats | None:
        """Return the second moments of the score's gradients with respect to the outputs of the layers that read a tensor.

        None without gradients. `placed` converts an array [outputs, ...] to the order and the units of the weights' rows.
        """
        sample = self._gradients.get(name)
        return None if sample is None else placed(placed(sample.output_moments.double().numpy()).T)

    def _query_key_value_rows(self, rows: Floats, scales: Mapping[str, float], context: Smoothing) -> Floats:
        """Convert gradients with respect to queries, keys and values to the order and units of the rows of their weights."""
        placed = []
        for (part, scale), each in zip(scales.items(), np.split(rows, len(scales)), strict=True):
            pad = _pad_rotary_heads if self._dims.is_modern and part != "value" else _pad_heads
            placed.append(pad(each / (context.multipliers[:, None] if part == "value" else scale), self._dims))
        return np.concatenate(placed)

    def _linear(
        self,
        name: str,
        weight: Floats,
        bias: Floats,
        inputs: int,
        outputs: int,
        moments: Floats | None = None,
        gradients: Floats | None = None,
        *,
        added: bool = False,
        rotated: bool = False,
    ) -> None:
        """Build a linear layer.

        For INT8, weights are rounded by the second `moments` of the input and the second moments of the score's `gradients` with
        respect to the output (see `rounded`). `added` says that the result is added to the hidden states, `rotated` that INT8
        rotates the input.
        """
        weight = _pad_channels(np.pad(weight, [(0, outputs - len(weight)), (0, 0)]), inputs)
        bias = _pad_channels(bias, outputs)
        half = self._dims.for_gpus and not name.startswith("head.") and not (added and self._dims.is_modern)
        self._arrays[f"{name}.bias"] = _to_fp16(bias) if half else bias
        if not self._dims.is_int8:
            self._arrays[f"{name}.weight"] = self._to_element_type(weight)
            return
        if moments is not None:
            moments = _pad_channels(_pad_channels(moments, inputs).T, inputs)
        if gradients is not None:
            gradients = _pad_channels(_pad_channels(gradients, outputs).T, outputs)
        if rotated:
            weight, moments = inverse_rotated(weight), None if moments is None else rotated_moments(moments)
        integers, scale = rounded(weight, moments, gradients)
        self._arrays[f"{name}.weight"] = _pack_panels(integers, interleaved=4)
        self._arrays[f"{name}.scale"] = scale
        self._arrays[f"{name}.sums"] = scale * integers.sum(axis=1, dtype=np.int64)

    def _to_element_type(self, weight: Floats) -> Floats:
        """Convert a weight [outputs, inputs] to the element type, which is not INT8. For CPUs it is also packed into panels."""
        if self._dims.for_gpus:
            return _to_fp16(weight)
        if self._dims.precision == "fp32":
            return _pack_panels(weight, interleaved=1)
        return _pack_panels(_to_bf16(weight), interleaved=2)

    def _outlier_channels(self, name: str, weight: Floats) -> npt.NDArray[np.int64]:
        """Return the input channels with the largest activations or, without statistics, the largest weights."""
        # The last layer has no statistics if it is computed only for [CLS], which calibration does not observe.
        magnitude = self._stats[name].magnitude if name in self._stats else np.abs(weight).max(axis=0)
        return np.sort(np.argsort(-magnitude, kind="stable")[:OUTLIER_CHANNELS])


def _initial_smoothing(low: Floats, high: Floats, mean: Floats, weights: Floats) -> Smoothing:
    """Return the first smoothing of channels with values from `low` to `high`, which `weights` [outputs, channels] read.

    The shift is the mean of each channel, so that channels on one side of 0 do not widen the range of every token. (Outlier
    Suppression+, Wei et al. 2023, arXiv:2304.09145, uses the middle between minimum and maximum, which was worse here.)
    The multipliers make activations and weights equally hard to quantize: equation 4 of SmoothQuant with a migration strength of
    0.5 (Xiao et al. 2023, arXiv:2211.10438). See `Smoothing` for the paper's factors.
    """
    magnitude = np.maximum(mean - low, high - mean)
    multipliers = np.sqrt(np.float64(np.abs(weights).max(axis=0).clip(1e-5)) / magnitude.clip(1e-5))
    return Smoothing(multipliers / np.median(multipliers), mean)


def _pack_panels(weight: Floats, *, interleaved: int) -> Floats:
    """Pack [outputs, inputs] as [outputs / 32, inputs / interleaved, 32, interleaved]. See engine/kernels/native/gemm.h."""
    outputs, inputs = weight.shape
    return weight.reshape(outputs // PANEL, PANEL, inputs // interleaved, interleaved).swapaxes(1, 2)


def _to_fp16(values: Floats) -> npt.NDArray[np.float16]:
    with np.errstate(over="ignore"):  # an overflow becomes Inf, which the parity check finds
        return np.asarray(values, dtype=np.float16)


def _to_bf16(values: Floats) -> npt.NDArray[np.uint16]:
    """Return the bits of the nearest BF16 values, ties to even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32).astype(np.uint64)
    even = (bits >> np.uint64(16)) & np.uint64(1)
    return ((bits + np.uint64(0x7FFF) + even) >> np.uint64(16)).astype(np.uint16)


def _pad_channels(values: Floats, width: int) -> Floats:
    """Pad the last axis with zeros to `width`."""
    return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, width - values.shape[-1])])


def _pad_heads(values: Floats, dims: ModelDims) -> Floats:
    """Pad the channels of each head with zeros. The first axis is [heads * channels]."""
    head = dims.hidden // dims.heads
    split = values.reshape(dims.heads, head, -1)
    return np.pad(split, [(0, 0), (0, dims.head - head), (0, 0)]).reshape(dims.heads * dims.head, *values.shape[1:])


def _pad_rotary_heads(values: Floats, dims: ModelDims) -> Floats:
    """Pad both halves of each head, and place channels c and c + half, a pair of the rotary embedding, 16 channels apart."""
    half = dims.hidden // dims.heads // 2
    split = values.reshape(dims.heads, 2, half, -1)
    split = np.pad(split, [(0, 0), (0, 0), (0, dims.head // 2 - half), (0, 0)])
    return _interleave_halves(split).reshape(dims.heads * dims.head, *values.shape[1:])


def _interleave_gates(values: Floats, dims: ModelDims) -> Floats:
    """Pad values and gates of a feed-forward layer (the halves of the first axis), and place each gate 16 after its value."""
    half = len(values) // 2
    split = np.pad(values.reshape(1, 2, half, -1), [(0, 0), (0, 0), (0, dims.intermediate - half), (0, 0)])
    return _interleave_halves(split).reshape(2 * dims.intermediate, *values.shape[1:])


def _interleave_halves(values: Floats) -> Floats:
    """Interleave two halves in blocks of 16 channels: [n, 2, half, m] becomes [n, half / 16, 2, 16, m]."""
    count, halves, half, rest = values.shape
    return values.reshape(count, halves, half // LANES, LANES, rest).swapaxes(1, 2)
