"""`native_from_checkpoint`: a checkpoint's weights in 8 bits, for crossrt's own kernels.

Weights have one scale an output channel and are rounded once, from FP32. Activations have no ranges here: the kernels give each
token its own as they run. What calibration saw decides two things: how channels are balanced before they are put into 8
bits, and which four of the widest layer's stay in FP32.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..calibration.quantization import Activation
from ..engine.native_model import KEPT, PANEL, Sizes, padded, write
from .checkpoint import Checkpoint
from .heads import HEAD_LAYERS

LARGEST = 127
"""Of a weight in 8 bits; -128 is left out, so that the range is symmetric."""

Floats = npt.NDArray[Any]


def can_be_native(checkpoint: Checkpoint) -> bool:
    """Tell whether the kernels compute such a model: GELU between its feed-forward layers, and no projected embeddings."""
    return checkpoint.dimensions.hidden_act == "gelu" and not checkpoint.has("project")


def native_from_checkpoint(checkpoint: Checkpoint, seen: Mapping[str, Activation], path: Path) -> None:
    """Write the file. `seen` is what calibration saw of the tensors that are read in 8 bits, by name; of those that it did not
    see, nothing is balanced. Raises CheckpointError for weights that are NaN or Inf."""
    dimensions = checkpoint.dimensions
    head = dimensions.hidden // dimensions.heads
    layers = HEAD_LAYERS[checkpoint.head]
    sizes = Sizes(
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
    )
    with path.open("wb") as file:
        write(file, sizes, _arrays(checkpoint, sizes, seen))


def _arrays(checkpoint: Checkpoint, sizes: Sizes, seen: Mapping[str, Activation]) -> dict[str, Floats]:
    tensor, width = checkpoint.tensor, padded(sizes.hidden)
    arrays: dict[str, Floats] = {"word": _widened(tensor("word.weight").astype(np.float16), width)}
    positions = tensor("position.weight")[-sizes.positions :]  # RoBERTa's begin after the padding id
    types = tensor("type.weight") if checkpoint.layout.token_types else np.zeros((1, positions.shape[1]), np.float32)
    arrays["type"] = _widened(types[: sizes.types], width)
    arrays["position"] = _widened(positions if sizes.types else positions + types[0], width)

    def norm(name: str, *readers: str) -> Floats:
        """LayerNorm, and what the weights of the layers that read it in 8 bits are divided by."""
        for part in ("weight", "bias"):
            arrays[f"{name}.{part}"] = _widened(tensor(f"{name}.{part}"), width)
        balance = np.ones(sizes.hidden)
        if readers and name in seen:
            balance = _balance(seen[name], np.concatenate([tensor(f"{reader}.weight") for reader in readers]))
        arrays[f"{name}.balance"] = _widened(balance, width)
        return balance

    def largest_channels(name: str, weight: Floats) -> npt.NDArray[np.int32]:
        # Of the last layer's, which only [CLS] has, nothing was seen.
        size = seen[name].magnitude if name in seen else np.abs(weight).max(axis=0)
        return np.sort(np.argsort(-size, kind="stable")[:KEPT]).astype(np.int32)

    def linear(name: str, weight: Floats, bias: Floats, inputs: int, outputs: int) -> None:
        weight = _widened(np.pad(weight, [(0, outputs - len(weight)), (0, 0)]), inputs)
        largest = np.abs(weight).max(axis=1)
        scale = np.where(largest > 0, largest, LARGEST).astype(np.float64) / LARGEST
        rounded = np.rint(weight / scale[:, None]).astype(np.int8)
        arrays[f"{name}.weight"] = rounded.reshape(outputs // PANEL, PANEL, inputs // 4, 4).swapaxes(1, 2)
        arrays[f"{name}.scale"] = scale
        arrays[f"{name}.sums"] = scale * rounded.sum(axis=1, dtype=np.int64)
        arrays[f"{name}.bias"] = _widened(bias, outputs)

    attended = sizes.heads * sizes.head
    # The scale of attention, and the kernels' exponential, which is one of base 2.
    scales = {"query": np.log2(np.e) / np.sqrt(sizes.hidden // sizes.heads), "key": 1.0, "value": 1.0}
    arrays["kept"] = np.empty((sizes.layers, KEPT), dtype=np.int32)
    before = "embedding_norm"
    for number in range(sizes.layers):
        layer = f"layer.{number}"
        balance = norm(before, *(f"{layer}.{part}" for part in scales))
        weight, bias = (
            np.concatenate([_heads(tensor(f"{layer}.{part}.{kind}") * scale, sizes) for part, scale in scales.items()])
            for kind in ("weight", "bias")
        )
        linear(f"{layer}.query_key_value", weight / balance, bias, width, 3 * attended)
        output = _heads(tensor(f"{layer}.attention_output.weight").T, sizes).T
        linear(f"{layer}.attention_output", output, tensor(f"{layer}.attention_output.bias"), attended, width)
        balance = norm(f"{layer}.attention_norm", f"{layer}.intermediate")
        wide = tensor(f"{layer}.intermediate.weight") / balance
        linear(f"{layer}.intermediate", wide, tensor(f"{layer}.intermediate.bias"), width, sizes.intermediate)
        output = tensor(f"{layer}.output.weight").copy()
        kept = largest_channels(f"{layer}.activation", output)
        arrays["kept"][number] = kept
        arrays[f"{layer}.output.kept"] = _widened(output[:, kept].T, width)
        output[:, kept] = 0
        linear(f"{layer}.output", output, tensor(f"{layer}.output.bias"), sizes.intermediate, width)
        before = f"{layer}.output_norm"
    norm(before)
    for number in range(sizes.dense):
        arrays[f"head.{number}.weight"] = tensor(f"head.{number}.weight").T
        arrays[f"head.{number}.bias"] = tensor(f"head.{number}.bias")
    return arrays


def _balance(seen: Activation, weights: Floats) -> Floats:
    """Return a factor for each channel, float64 [channels], by which large channels and the weights that read them share what
    8 bits can hold: SmoothQuant's equation 4 with its strength of 0.5 (Xiao et al. 2023, arXiv:2211.10438)."""
    ratio = np.abs(weights).max(axis=0).clip(1e-5) / seen.magnitude.clip(1e-5)
    factor = np.sqrt(np.float64(ratio))
    return np.asarray(factor / np.median(factor))


def _widened(values: Floats, width: int) -> Floats:
    """Zeros after the last axis's values."""
    return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, width - values.shape[-1])])


def _heads(values: Floats, sizes: Sizes) -> Floats:
    """Zeros after each head's channels, which are the first axis."""
    head = sizes.hidden // sizes.heads
    split = values.reshape(sizes.heads, head, -1)
    return np.pad(split, [(0, 0), (0, sizes.head - head), (0, 0)]).reshape(sizes.heads * sizes.head, *values.shape[1:])
