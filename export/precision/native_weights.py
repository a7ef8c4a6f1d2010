"""`native_from_checkpoint`: a checkpoint's weights in 8 bits, BF16 or FP32, for the native kernels, and in FP16 for GPUs'.

Weights in 8 bits have one scale an output channel and are rounded once, from FP32. Activations have no ranges here: the kernels
give each token its own as they run. What calibration saw decides two things: how channels are balanced before they are put
into 8 bits, and which four of the widest layer's stay in FP32. BF16 and FP32 need none of this.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...calibration.tensor_stats import TensorStats
from ...engine.bundle.native_weights import KEPT, PANEL, ModelDims, padded, write
from ...engine.precision import Precision
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.heads import HEAD_LAYERS

LARGEST = 127
"""Of a weight in 8 bits; -128 is left out, so that the range is symmetric."""

Floats = npt.NDArray[Any]


WIDEST_HEAD_ON_GPUS = 128
"""Channels, of which a tile's keys and values fit into the 48 KiB of shared memory that every block may have, and its queries and
sums into registers."""


def can_be_native(checkpoint: Checkpoint, *, for_gpus: bool = False) -> bool:
    """Tell whether the kernels compute such a model: GELU between its feed-forward layers, and no projected embeddings; on GPUs
    attention heads of up to 128 channels."""
    dimensions = checkpoint.dimensions
    fits = not for_gpus or padded(dimensions.hidden // dimensions.heads) <= WIDEST_HEAD_ON_GPUS
    return fits and dimensions.hidden_act == "gelu" and not checkpoint.has("project")


def native_from_checkpoint(
    checkpoint: Checkpoint, path: Path, precision: Precision, seen: Mapping[str, TensorStats] | None = None
) -> None:
    """Write the file, in INT8, BF16 or FP32, or, for GPUs, FP16. `seen` is what calibration saw of the tensors that are read in
    8 bits, by name; of those that it did not see, nothing is balanced. Raises CheckpointError for weights that are NaN or Inf."""
    dimensions = checkpoint.dimensions
    head = dimensions.hidden // dimensions.heads
    layers = HEAD_LAYERS[checkpoint.head]
    sizes = ModelDims(
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
        activation=layers.activation or "none",
        epsilon=dimensions.norm_eps,
        padding=checkpoint.pad_token_id if checkpoint.positions_pass_over_padding else None,
    )
    arrays = _Arrays(checkpoint, sizes, seen or {})
    with path.open("wb") as file:
        write(file, sizes, arrays.made())


class _Arrays:
    """The file's tensors as they are made."""

    def __init__(self, checkpoint: Checkpoint, sizes: ModelDims, seen: Mapping[str, TensorStats]) -> None:
        self._tensor = checkpoint.tensor
        self._checkpoint = checkpoint
        self._sizes = sizes
        self._seen = seen
        self._arrays: dict[str, Floats] = {}

    def made(self) -> dict[str, Floats]:
        """Make all of them."""
        sizes = self._sizes
        if sizes.eight_bit:
            self._arrays["kept"] = np.empty((sizes.layers, KEPT), dtype=np.int32)
        self._embeddings()
        before = "embedding_norm"
        for number in range(sizes.layers):
            self._layer(number, before)
            before = f"layer.{number}.output_norm"
        self._norm(before)
        for number in range(sizes.dense):
            weight, bias = self._tensor(f"head.{number}.weight"), self._tensor(f"head.{number}.bias")
            if sizes.for_gpus and number < sizes.dense - 1:
                self._linear(f"head.{number}", weight, bias, padded(sizes.hidden), padded(sizes.hidden))
            else:
                self._arrays |= {f"head.{number}.weight": weight.T, f"head.{number}.bias": bias}
        return self._arrays

    def _embeddings(self) -> None:
        sizes, width = self._sizes, padded(self._sizes.hidden)
        word = self._tensor("word.weight")
        self._arrays["word"] = _widened(word if sizes.precision == "fp32" else _half(word), width)
        positions = self._tensor("position.weight")[-sizes.places :]  # RoBERTa's begin at the padding id
        types = np.zeros((1, positions.shape[1]), dtype=np.float32)
        if self._checkpoint.layout.token_types:
            types = self._tensor("type.weight")
        self._arrays["type"] = _widened(types[: sizes.types], width)
        self._arrays["position"] = _widened(positions if sizes.types else positions + types[0], width)

    def _layer(self, number: int, before: str) -> None:
        sizes, name = self._sizes, f"layer.{number}"
        width, attended = padded(sizes.hidden), sizes.heads * sizes.head
        # The scale of attention, and the kernels' exponential, which is one of base 2.
        scales = {"query": np.log2(np.e) / np.sqrt(sizes.hidden // sizes.heads), "key": 1.0, "value": 1.0}
        parts = {
            f"{part}.{kind}": _heads(self._tensor(f"{name}.{part}.{kind}") * scale, sizes)
            for part, scale in scales.items()
            for kind in ("weight", "bias")
        }
        if number < sizes.layers - 1:
            balance = self._norm(before, *(f"{name}.{part}" for part in scales))
            weight, bias = (np.concatenate([parts[f"{part}.{kind}"] for part in scales]) for kind in ("weight", "bias"))
            self._linear(f"{name}.query_key_value", weight / balance, bias, width, 3 * attended)
        else:
            balance = self._norm(before, f"{name}.query")
            self._linear(f"{name}.query", parts["query.weight"] / balance, parts["query.bias"], width, attended)
            self._last_keys_and_values(name, parts)
        output = _heads(self._tensor(f"{name}.attention_output.weight").T, sizes).T
        self._linear(f"{name}.attention_output", output, self._tensor(f"{name}.attention_output.bias"), attended, width)
        balance = self._norm(f"{name}.attention_norm", f"{name}.intermediate")
        wide = self._tensor(f"{name}.intermediate.weight") / balance
        bias = self._tensor(f"{name}.intermediate.bias")
        self._linear(f"{name}.intermediate", wide, bias, width, sizes.intermediate)
        output = self._tensor(f"{name}.output.weight").copy()
        if sizes.eight_bit:
            kept = self._largest_channels(f"{name}.activation", output)
            self._arrays["kept"][number] = kept
            self._arrays[f"{name}.output.kept"] = _widened(output[:, kept].T, width)
            output[:, kept] = 0
        self._linear(f"{name}.output", output, self._tensor(f"{name}.output.bias"), sizes.intermediate, width)

    def _last_keys_and_values(self, name: str, parts: Mapping[str, Floats]) -> None:
        """A bias of the keys would move all of a query's scores alike, so there is none."""
        sizes, width = self._sizes, padded(self._sizes.hidden)
        if sizes.for_gpus:
            weight = np.concatenate([parts["key.weight"], parts["value.weight"]])
            bias = np.concatenate([np.zeros_like(parts["value.bias"]), parts["value.bias"]])
            self._linear(f"{name}.key_value", weight, bias, width, len(weight))
            return
        keys = _widened(parts["key.weight"], width).reshape(sizes.heads, sizes.head, width).swapaxes(1, 2)
        self._arrays[f"{name}.key.weight"] = np.stack([self._floating(key) for key in keys])
        self._arrays[f"{name}.value.weight"] = self._floating(_widened(parts["value.weight"], width))
        self._arrays[f"{name}.value.bias"] = parts["value.bias"]

    def _norm(self, name: str, *readers: str) -> Floats:
        """LayerNorm. Returns what the weights of its readers are to be divided by."""
        width = padded(self._sizes.hidden)
        for part in ("weight", "bias"):
            self._arrays[f"{name}.{part}"] = _widened(self._tensor(f"{name}.{part}"), width)
        balance = np.ones(self._sizes.hidden)
        if self._sizes.eight_bit:
            if readers and name in self._seen:
                weights = np.concatenate([self._tensor(f"{reader}.weight") for reader in readers])
                balance = _balance(self._seen[name], weights)
            self._arrays[f"{name}.balance"] = _widened(balance, width)
        return balance

    def _linear(self, name: str, weight: Floats, bias: Floats, inputs: int, outputs: int) -> None:
        weight = _widened(np.pad(weight, [(0, outputs - len(weight)), (0, 0)]), inputs)
        bias = _widened(bias, outputs)
        self._arrays[f"{name}.bias"] = _half(bias) if self._sizes.for_gpus and not name.startswith("head.") else bias
        if not self._sizes.eight_bit:
            self._arrays[f"{name}.weight"] = self._floating(weight)
            return
        largest = np.abs(weight).max(axis=1)
        scale = np.where(largest > 0, largest, LARGEST).astype(np.float64) / LARGEST
        rounded = np.rint(weight / scale[:, None]).astype(np.int8)
        self._arrays[f"{name}.weight"] = _panels(rounded, side_by_side=4)
        self._arrays[f"{name}.scale"] = scale
        self._arrays[f"{name}.sums"] = scale * rounded.sum(axis=1, dtype=np.int64)

    def _floating(self, weight: Floats) -> Floats:
        """A weight that is not in 8 bits: for processors in panels."""
        if self._sizes.for_gpus:
            return _half(weight)
        if self._sizes.precision == "fp32":
            return _panels(weight, side_by_side=1)
        return _panels(_bfloat16(weight), side_by_side=2)

    def _largest_channels(self, name: str, weight: Floats) -> npt.NDArray[np.int64]:
        # Of the last layer's, which only [CLS] has, nothing was seen.
        size = self._seen[name].magnitude if name in self._seen else np.abs(weight).max(axis=0)
        return np.sort(np.argsort(-size, kind="stable")[:KEPT])


def _balance(seen: TensorStats, weights: Floats) -> Floats:
    """Return a factor for each channel, float64 [channels], by which large channels and the weights that read them share what
    8 bits can hold: SmoothQuant's equation 4 with its strength of 0.5 (Xiao et al. 2023, arXiv:2211.10438)."""
    ratio = np.abs(weights).max(axis=0).clip(1e-5) / seen.magnitude.clip(1e-5)
    factor = np.sqrt(np.float64(ratio))
    return np.asarray(factor / np.median(factor))


def _panels(weight: Floats, *, side_by_side: int) -> Floats:
    outputs, inputs = weight.shape
    return weight.reshape(outputs // PANEL, PANEL, inputs // side_by_side, side_by_side).swapaxes(1, 2)


def _half(values: Floats) -> npt.NDArray[np.float16]:
    with np.errstate(over="ignore"):  # inf, which parity sees
        return np.asarray(values, dtype=np.float16)


def _bfloat16(values: Floats) -> npt.NDArray[np.uint16]:
    """The bits of the nearest BF16, to even where two are as near."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32).astype(np.uint64)
    even = (bits >> np.uint64(16)) & np.uint64(1)
    return ((bits + np.uint64(0x7FFF) + even) >> np.uint64(16)).astype(np.uint16)


def _widened(values: Floats, width: int) -> Floats:
    """Zeros after the last axis's values."""
    return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, width - values.shape[-1])])


def _heads(values: Floats, sizes: ModelDims) -> Floats:
    """Zeros after each head's channels, which are the first axis."""
    head = sizes.hidden // sizes.heads
    split = values.reshape(sizes.heads, head, -1)
    return np.pad(split, [(0, 0), (0, sizes.head - head), (0, 0)]).reshape(sizes.heads * sizes.head, *values.shape[1:])
