"""The native kernels in NumPy: slow and plain, written from docs/decisions/0012 and 0031 and not from their source."""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import hadamard
from scipy.special import erf

from crossrt.engine.bundle.native_weights import PANEL, NativeModel, padded

Floats = npt.NDArray[Any]

# Coefficients in BF16 and INT8, highest power first: errors of 2.4e-4 |x|, and of 1e-4 relative.
GELU = (-7.1176036e-07, 3.50398659e-05, -7.28269981e-04, 8.52908473e-03, -6.44131526e-02, 3.98064524e-01)
EXP2 = (5.50091019e-02, 2.4221098e-01, 6.93282888e-01, 1.0)

STEPS = 254
"""Steps from the minimum to the maximum of a row of activations in INT8."""


def logits_of(
    model: NativeModel,
    pairs: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]],
    *,
    steps: int = STEPS,
    rounds_softmax: bool = True,
) -> Floats:
    """Return the logits float64 [pairs, labels] of pairs of token ids and types.

    With `rounds_softmax`, softmax weights are rounded to BF16, unless the precision is FP32.
    """
    names = [name for name, _, _ in model.dims.tensors()]
    arrays = dict(zip(names, model.arrays, strict=True))
    return np.stack([_logits(model, arrays, ids, types, steps, rounds_softmax) for ids, types in pairs])


def _logits(
    model: NativeModel, arrays: dict[str, Floats], ids: Floats, types: Floats, steps: int, rounds_softmax: bool
) -> Floats:
    dims = model.dims
    if dims.is_modern:
        return _head(dims, arrays, _modern(dims, arrays, ids, steps, rounds_softmax))
    total = arrays["word"][ids].astype(np.float64) + arrays["position"][_position_rows(dims, ids)]
    if dims.types:
        total = total + arrays["type"][types]
    hidden, quantized = _norm(dims, arrays, "embedding_norm", total, steps, dims.embedding or dims.hidden)
    if dims.embedding is not None:
        hidden = _linear(arrays, "project", quantized)
        quantized = _smoothed(dims, hidden, arrays.get("project.balance"), steps)
    for number in range(dims.layers):
        layer = f"layer.{number}"
        if number < dims.layers - 1:
            context = _context(dims, arrays, layer, quantized, steps, rounds_softmax)
        else:
            context = _context_of_cls(dims, arrays, layer, hidden, quantized, steps, rounds_softmax)
            hidden = hidden[:1]
        total = hidden + _linear(arrays, f"{layer}.attention_output", _quantized_rows(dims, context, steps))
        hidden, quantized = _norm(dims, arrays, f"{layer}.attention_norm", total, steps)
        intermediate = _linear(arrays, f"{layer}.intermediate", quantized)
        activation = _activated(dims, intermediate)
        if dims.activation_balance:
            activation = activation * arrays[f"{layer}.activation.balance"]
        total = hidden + _output(dims, arrays, number, _rounded(dims, activation), steps)
        hidden, quantized = _norm(dims, arrays, f"{layer}.output_norm", total, steps)
    return _head(dims, arrays, hidden[0])


def _modern(dims: Any, arrays: dict[str, Floats], ids: Floats, steps: int, rounds_softmax: bool) -> Floats:
    """A ModernBERT: each part reads a LayerNorm of the sum so far, and is added to the sum itself."""
    total, quantized = _norm(dims, arrays, "embedding_norm", arrays["word"][ids].astype(np.float64), steps)
    for number in range(dims.layers):
        layer, has_window = f"layer.{number}", arrays["has_window"][number]
        angles = arrays[f"rotary.{'sliding' if has_window else 'full'}_attention"][: len(ids)].astype(np.float64)
        distances = np.abs(np.subtract.outer(np.arange(len(ids)), np.arange(len(ids))))
        seen = distances <= (dims.window if has_window else len(ids))
        context = _context(dims, arrays, layer, quantized, steps, rounds_softmax, angles, seen)
        if number == dims.layers - 1 and dims.pooling == "cls":
            context, total = context[:1], total[:1]
        total = total + _linear(arrays, f"{layer}.attention_output", _quantized_rows(dims, context, steps))
        _, quantized = _norm(dims, arrays, f"{layer}.feed_forward_norm", total, steps)
        wide = _linear(arrays, f"{layer}.intermediate", quantized).reshape(len(total), -1, 2, 16)
        values, gates = (wide[:, :, half].reshape(len(total), -1) for half in range(2))
        activation = _rounded(dims, _activated(dims, values) * gates)
        total = total + _output(dims, arrays, number, activation, steps)
        after = "final_norm" if number == dims.layers - 1 else f"layer.{number + 1}.attention_norm"
        normal, quantized = _norm(dims, arrays, after, total, steps)
    return np.asarray(normal[0] if dims.pooling == "cls" else normal.mean(axis=0))


def _output(dims: Any, arrays: dict[str, Floats], number: int, activation: Floats, steps: int) -> Floats:
    """The second feed-forward layer. In INT8 some channels are multiplied in FP32."""
    kept: Any = 0
    if dims.is_int8:
        kept = activation[:, arrays["kept"][number]] @ arrays[f"layer.{number}.output.kept"]
        activation[:, arrays["kept"][number]] = 0
    if dims.rotated:
        activation = _rotated(activation)
    return np.asarray(_linear(arrays, f"layer.{number}.output", _quantized_rows(dims, activation, steps)) + kept)


def _head(dims: Any, arrays: dict[str, Floats], row: Floats) -> Floats:
    value = row[: dims.hidden]
    functions = {
        "tanh": np.tanh,
        "relu": lambda x: np.maximum(x, 0),
        "gelu": lambda x: x * 0.5 * (1 + erf(x / np.sqrt(2))),
        "gelu_tanh": _gelu_tanh,
        "silu": lambda x: x / (1 + np.exp(-x)),
    }
    for number in range(dims.dense):
        value = value @ arrays[f"head.{number}.weight"] + arrays[f"head.{number}.bias"]
        if number + 1 < dims.dense and dims.activation != "none":
            value = functions[dims.activation](value)
        if number + 1 < dims.dense and dims.head_norm:
            normal = (value - value.mean()) / np.sqrt(value.var() + dims.epsilon)
            value = normal * arrays["head.norm.weight"] + arrays["head.norm.bias"]
    return value


def _position_rows(dims: Any, ids: Floats) -> Floats:
    """Return rows of the position table: in order, or 0 for padding and the other tokens counted from 1."""
    if dims.padding is None:
        return np.arange(len(ids))
    counted = ids != dims.padding
    return np.cumsum(counted) * counted


def _context(
    dims: Any,
    arrays: dict[str, Floats],
    layer: str,
    quantized: Any,
    steps: int,
    rounds_softmax: bool,
    angles: Floats | None = None,
    seen: npt.NDArray[np.bool_] | None = None,
) -> Floats:
    both = _projected(dims, arrays, f"{layer}.query_key_value", quantized, steps, angles)
    heads = range(0, dims.heads * dims.head, dims.head)
    parts = np.split(both, 3, axis=1)
    contexts = [
        _attend(dims, rounds_softmax, *(part[:, head : head + dims.head] for part in parts), seen) for head in heads
    ]
    return np.concatenate(contexts, axis=1)


def _context_of_cls(
    dims: Any, arrays: dict[str, Floats], layer: str, hidden: Floats, quantized: Any, steps: int, rounds_softmax: bool
) -> Floats:
    """The last layer: K's weights are absorbed by the query, attention reads the hidden states, V's weights come last."""
    states = _rounded(dims, hidden)
    quantized = tuple(part[:1] for part in quantized) if dims.is_int8 else quantized[:1]
    query = _projected(dims, arrays, f"{layer}.query", quantized, steps).reshape(dims.heads, dims.head)
    absorbed = np.stack(
        [one @ _matrix(panels).T for one, panels in zip(query, arrays[f"{layer}.key.weight"], strict=True)]
    )
    pooled = _rounded(dims, _attend(dims, rounds_softmax, _rounded(dims, absorbed), states, states))
    value = _matrix(arrays[f"{layer}.value.weight"]).reshape(dims.heads, dims.head, -1)
    return np.einsum("hw,hcw->hc", pooled, value).reshape(1, -1) + arrays[f"{layer}.value.bias"]


def _norm(
    dims: Any, arrays: dict[str, Floats], name: str, total: Floats, steps: int, channels: int | None = None
) -> tuple[Floats, Any]:
    channels = channels or dims.hidden
    real = total[:, :channels]
    normal = (real - real.mean(axis=1, keepdims=True)) / np.sqrt(real.var(axis=1, keepdims=True) + dims.epsilon)
    normal = np.pad(normal, [(0, 0), (0, padded(channels) - channels)])
    hidden = normal * arrays[f"{name}.weight"] + arrays[f"{name}.bias"]
    return hidden, _smoothed(dims, hidden, arrays.get(f"{name}.balance"), steps)


def _smoothed(dims: Any, values: Floats, balance: Floats | None, steps: int) -> Any:
    """Rows as linear layers read them; in INT8 with what the quantization of the first has lost."""
    if not dims.is_int8:
        return _rounded(dims, values)
    smoothed = _rotated(values * balance) if dims.rotated else values * balance
    integers, scale, shift = _quantize(smoothed, steps)
    return integers, scale, shift, smoothed[:1] - (integers * scale + shift)[:1]


def _rotated(rows: Floats) -> Floats:
    """Hadamard matrices of 1 and -1, of as many of 8 channels that are 16 apart as fit, then of 4 and of 2."""
    matrix = np.zeros((rows.shape[1], rows.shape[1]))
    begin = 0
    for size in (8, 4, 2):
        while begin + 16 * size <= len(matrix):
            place = slice(begin, begin + 16 * size)
            matrix[place, place] = np.kron(hadamard(size), np.eye(16))
            begin += 16 * size
    return np.asarray(rows @ matrix)


def _projected(
    dims: Any, arrays: dict[str, Floats], name: str, rows: Any, steps: int, angles: Floats | None = None
) -> Floats:
    """Queries, keys and values, the former two rotated by `angles`: cosines and sines, [tokens, head].

    In INT8 the first row, of [CLS], is quantized twice: itself, and what that has lost.
    """
    projected = _linear(arrays, name, rows)
    if angles is not None:
        projected = _rotary(dims, projected, angles)
    projected = _rounded(dims, projected)
    if dims.is_int8:
        lost = _linear(arrays, name, _quantize(rows[3], steps)) - arrays[f"{name}.bias"]
        projected[:1] = _rounded(dims, projected[:1] + lost)
    return projected


def _rotary(dims: Any, projected: Floats, angles: Floats) -> Floats:
    """The two channels of a plane of rotation lie 16 apart: [tokens, parts and heads, planes / 16, 2, 16]."""
    tokens = len(projected)
    cosine, sine = (part.reshape(tokens, 1, -1, 16) for part in np.split(angles, 2, axis=1))
    planes = projected.reshape(tokens, 3 * dims.heads, -1, 2, 16).copy()
    first, second = planes[:, : 2 * dims.heads, :, 0].copy(), planes[:, : 2 * dims.heads, :, 1].copy()
    planes[:, : 2 * dims.heads, :, 0] = first * cosine - second * sine
    planes[:, : 2 * dims.heads, :, 1] = second * cosine + first * sine
    return planes.reshape(projected.shape)


def _quantized_rows(dims: Any, values: Floats, steps: int) -> Any:
    return _quantize(values, steps) if dims.is_int8 else _rounded(dims, values)


def _quantize(values: Floats, steps: int) -> tuple[Floats, Floats, Floats]:
    """Return integers, and each row's scale and shift: `steps` from its minimum to its maximum, one of which is 0."""
    least = np.minimum(values.min(axis=1, keepdims=True), 0)
    scale = (np.maximum(values.max(axis=1, keepdims=True), 0) - least) / steps
    inverse = np.divide(1, scale, where=scale > 1e-30, out=np.zeros_like(scale))
    zero = np.ceil(-least * inverse)
    # Rounded to FP32 as the kernels do: numbers of BF16 are often halfway between two steps of a range that begins at 0.
    return np.rint(np.float32(values * np.float32(inverse) + zero)), scale, -scale * zero


def _linear(arrays: dict[str, Floats], name: str, rows: Any) -> Floats:
    weight = _matrix(arrays[f"{name}.weight"])
    if f"{name}.scale" not in arrays:
        return np.asarray(rows @ weight.T + arrays[f"{name}.bias"])
    integers, scale, shift = rows[:3]
    product = (integers @ weight.T) * arrays[f"{name}.scale"]
    return np.asarray(product * scale + shift * arrays[f"{name}.sums"] + arrays[f"{name}.bias"])


def _matrix(panels: npt.NDArray[Any]) -> Floats:
    """Weights [outputs, inputs] from panels [outputs / 32, inputs / n, 32, n]."""
    assert panels.shape[2] == PANEL
    weight = panels.swapaxes(1, 2).reshape(-1, panels.shape[1] * panels.shape[3])
    if weight.dtype == np.uint16:
        return (weight.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
    return weight.astype(np.float64)


def _attend(
    dims: Any,
    rounds_softmax: bool,
    query: Floats,
    key: Floats,
    value: Floats,
    seen: npt.NDArray[np.bool_] | None = None,
) -> Floats:
    scores = query @ key.T
    if seen is not None:
        scores = np.where(seen, scores, -np.inf)
    weights = _exp2(dims, scores - scores.max(axis=1, keepdims=True))
    rounded = _rounded(dims, weights) if rounds_softmax else weights
    return np.asarray((rounded @ value) / weights.sum(axis=1, keepdims=True))


def _activated(dims: Any, x: Floats) -> Floats:
    """The activation of the feed-forward part. SiLU and GELU's form with tanh are as exact as `_exp2`."""
    if dims.hidden_activation == "relu":
        return np.maximum(x, 0)
    if dims.hidden_activation != "gelu":
        cubic = 0.0 if dims.hidden_activation == "silu" else 0.044715
        slope = 1.0 if dims.hidden_activation == "silu" else 2 * np.sqrt(2 / np.pi)
        return x / (1 + _exp2(dims, np.minimum(-np.log2(np.e) * slope * (x + cubic * x**3), 126)))
    if dims.precision == "fp32":
        return np.asarray(x * 0.5 * (1 + erf(x / np.sqrt(2))))
    near = np.clip(x, -3.5, 3.5)
    return x * (0.5 + near * np.polyval(GELU, near**2))


def _gelu_tanh(x: Floats) -> Floats:
    return np.asarray(x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))


def _exp2(dims: Any, x: Floats) -> Floats:
    if dims.precision == "fp32":
        return np.exp2(x)
    x = np.maximum(x, -126)
    whole = np.rint(x)
    return np.polyval(EXP2, x - whole) * 2.0**whole


def _rounded(dims: Any, values: Floats) -> Floats:
    """Round to BF16, unless the precision is FP32."""
    return values if dims.precision == "fp32" else _bfloat16(values)


def _bfloat16(values: Floats) -> Floats:
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32).astype(np.uint64)
    even = (bits >> np.uint64(16)) & np.uint64(1)
    rounded = ((bits + np.uint64(0x7FFF) + even) & np.uint64(0xFFFF0000)).astype(np.uint32)
    return rounded.view(np.float32).astype(np.float64)
