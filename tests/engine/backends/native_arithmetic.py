"""What the native kernels compute, in NumPy: slow, plain, and written from what docs/decisions/0012 says they do."""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import erf

from crossrt.engine.bundle.native_weights import PANEL, NativeModel, padded

Floats = npt.NDArray[Any]

# Of all but FP32, highest power first. They err by 2.4e-4 of x, and by 1e-4 of the power.
GELU = (-7.1176036e-07, 3.50398659e-05, -7.28269981e-04, 8.52908473e-03, -6.44131526e-02, 3.98064524e-01)
EXP2 = (5.50091019e-02, 2.4221098e-01, 6.93282888e-01, 1.0)


def logits_of(model: NativeModel, pairs: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]) -> Floats:
    """Return the logits float64 [pairs, labels] of pairs of token ids and types."""
    names = [name for name, _, _ in model.sizes.tensors()]
    arrays = dict(zip(names, model.arrays, strict=True))
    return np.stack([_logits(model, arrays, ids, types) for ids, types in pairs])


def _logits(model: NativeModel, arrays: dict[str, Floats], ids: Floats, types: Floats) -> Floats:
    sizes = model.sizes
    total = arrays["word"][ids].astype(np.float64) + arrays["position"][_places(sizes, ids)]
    if sizes.types:
        total = total + arrays["type"][types]
    hidden, narrow = _norm(sizes, arrays, "embedding_norm", total)
    for number in range(sizes.layers):
        layer = f"layer.{number}"
        if number < sizes.layers - 1:
            context = _context(sizes, arrays, layer, narrow)
        else:
            context = _context_of_cls(sizes, arrays, layer, hidden, narrow)
            hidden = hidden[:1]
        total = hidden + _linear(arrays, f"{layer}.attention_output", _narrow(sizes, context))
        hidden, narrow = _norm(sizes, arrays, f"{layer}.attention_norm", total)
        wide = _linear(arrays, f"{layer}.intermediate", narrow)
        wide = _rounded(sizes, _gelu(sizes, wide))
        kept = 0
        if sizes.eight_bit:
            kept = wide[:, arrays["kept"][number]] @ arrays[f"{layer}.output.kept"]
            wide[:, arrays["kept"][number]] = 0
        total = hidden + _linear(arrays, f"{layer}.output", _narrow(sizes, wide, low=-0.1703)) + kept
        hidden, narrow = _norm(sizes, arrays, f"{layer}.output_norm", total)
    value = hidden[0, : sizes.hidden]
    functions = {
        "tanh": np.tanh,
        "relu": lambda x: np.maximum(x, 0),
        "gelu": lambda x: x * 0.5 * (1 + erf(x / np.sqrt(2))),
    }
    for number in range(sizes.dense):
        value = value @ arrays[f"head.{number}.weight"] + arrays[f"head.{number}.bias"]
        if number + 1 < sizes.dense and sizes.activation != "none":
            value = functions[sizes.activation](value)
    return value


def _places(sizes: Any, ids: Floats) -> Floats:
    """Rows of the table of positions: as they come, or 0 for padding and the others counted from 1."""
    if sizes.padding is None:
        return np.arange(len(ids))
    counted = ids != sizes.padding
    return np.cumsum(counted) * counted


def _context(sizes: Any, arrays: dict[str, Floats], layer: str, narrow: Any) -> Floats:
    both = _rounded(sizes, _linear(arrays, f"{layer}.query_key_value", narrow))
    heads = range(0, sizes.heads * sizes.head, sizes.head)
    parts = np.split(both, 3, axis=1)
    contexts = [_attend(sizes, *(part[:, head : head + sizes.head] for part in parts)) for head in heads]
    return np.concatenate(contexts, axis=1)


def _context_of_cls(sizes: Any, arrays: dict[str, Floats], layer: str, hidden: Floats, narrow: Any) -> Floats:
    """Keys go into the query, and values are made of what the heads have mixed: each head attends to the hidden states."""
    states = _rounded(sizes, hidden)
    narrow = tuple(part[:1] for part in narrow) if sizes.eight_bit else narrow[:1]
    query = _rounded(sizes, _linear(arrays, f"{layer}.query", narrow)).reshape(sizes.heads, sizes.head)
    folded = np.stack(
        [one @ _matrix(panels).T for one, panels in zip(query, arrays[f"{layer}.key.weight"], strict=True)]
    )
    mixed = _rounded(sizes, _attend(sizes, _rounded(sizes, folded), states, states))
    value = _matrix(arrays[f"{layer}.value.weight"]).reshape(sizes.heads, sizes.head, -1)
    return np.einsum("hw,hcw->hc", mixed, value).reshape(1, -1) + arrays[f"{layer}.value.bias"]


def _norm(sizes: Any, arrays: dict[str, Floats], name: str, total: Floats) -> tuple[Floats, Any]:
    real = total[:, : sizes.hidden]
    normal = (real - real.mean(axis=1, keepdims=True)) / np.sqrt(real.var(axis=1, keepdims=True) + sizes.epsilon)
    normal = np.pad(normal, [(0, 0), (0, padded(sizes.hidden) - sizes.hidden)])
    hidden = normal * arrays[f"{name}.weight"] + arrays[f"{name}.bias"]
    return hidden, _narrow(sizes, hidden * arrays[f"{name}.balance"] if sizes.eight_bit else hidden)


def _narrow(sizes: Any, values: Floats, low: float | None = None) -> Any:
    return _quantised(values, low) if sizes.eight_bit else _rounded(sizes, values)


def _quantised(values: Floats, low: float | None = None) -> tuple[Floats, Floats, Floats]:
    """Integers, and each row's scale and shift: 254 steps between the least and the greatest, 0 among them."""
    least = np.minimum(values.min(axis=1, keepdims=True), 0) if low is None else np.full((len(values), 1), low)
    scale = (np.maximum(values.max(axis=1, keepdims=True), 0) - least) / 254
    inverse = np.divide(1, scale, where=scale > 1e-30, out=np.zeros_like(scale))
    zero = np.ceil(-least * inverse)
    return np.rint(values * inverse + zero), scale, -scale * zero


def _linear(arrays: dict[str, Floats], name: str, rows: Any) -> Floats:
    weight = _matrix(arrays[f"{name}.weight"])
    if f"{name}.scale" not in arrays:
        return np.asarray(rows @ weight.T + arrays[f"{name}.bias"])
    integers, scale, shift = rows
    product = (integers @ weight.T) * arrays[f"{name}.scale"]
    return np.asarray(product * scale + shift * arrays[f"{name}.sums"] + arrays[f"{name}.bias"])


def _matrix(panels: npt.NDArray[Any]) -> Floats:
    """Weights [outputs, inputs] from panels [outputs / 32, inputs / n, 32, n]."""
    assert panels.shape[2] == PANEL
    weight = panels.swapaxes(1, 2).reshape(-1, panels.shape[1] * panels.shape[3])
    if weight.dtype == np.uint16:
        return (weight.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
    return weight.astype(np.float64)


def _attend(sizes: Any, query: Floats, key: Floats, value: Floats) -> Floats:
    scores = query @ key.T
    weights = _exp2(sizes, scores - scores.max(axis=1, keepdims=True))
    return np.asarray((_rounded(sizes, weights) @ value) / weights.sum(axis=1, keepdims=True))


def _gelu(sizes: Any, x: Floats) -> Floats:
    if sizes.precision == "fp32":
        return np.asarray(x * 0.5 * (1 + erf(x / np.sqrt(2))))
    near = np.clip(x, -3.5, 3.5)
    return x * (0.5 + near * np.polyval(GELU, near**2))


def _exp2(sizes: Any, x: Floats) -> Floats:
    if sizes.precision == "fp32":
        return np.exp2(x)
    whole = np.rint(x)
    return np.polyval(EXP2, x - whole) * 2.0**whole


def _rounded(sizes: Any, values: Floats) -> Floats:
    """What is kept in BF16, unless all is FP32."""
    return values if sizes.precision == "fp32" else _bfloat16(values)


def _bfloat16(values: Floats) -> Floats:
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32).astype(np.uint64)
    even = (bits >> np.uint64(16)) & np.uint64(1)
    rounded = ((bits + np.uint64(0x7FFF) + even) & np.uint64(0xFFFF0000)).astype(np.uint32)
    return rounded.view(np.float32).astype(np.float64)
