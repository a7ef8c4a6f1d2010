"""Attention in TensorRT: finds the attention layers that TensorRT can fuse, and reads how many an engine has fused.

The required form, from TensorRT's documentation of its multi-head attention fusion, is a MatMul, the addition of the mask,
softmax, and a MatMul. In FP16 or BF16 a head must have 16 to 256 channels, a multiple of 8. In INT8 there must be Q/DQ before
both MatMuls.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from ...engine.errors import BackendError

UNMEASURED = "unmeasured"
FUSED = re.compile(r"mha|flash_?att", re.IGNORECASE)
"""Matches names of fused attention layers or of their kernels: `_gemm_mha_v2` and `_gemv_mha_v1` (TensorRT 9 to 11), and
`fused_mha` and `fmha` (earlier versions)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """An attention layer of a network. `name` is its softmax's name, `quantized` whether all four operands come from Q/DQ."""

    name: str
    head_size: int
    quantized: bool


def attention_in(network: Any, tensorrt: Any) -> tuple[Attention, ...]:
    """Return the attention layers of a parsed network that have the form that TensorRT can fuse."""
    layers = [network.get_layer(number) for number in range(network.num_layers)]
    makers = {layer.get_output(number).name: layer for layer in layers for number in range(layer.num_outputs)}
    readers: dict[str, list[Any]] = {}
    for layer in layers:
        for tensor in _inputs(layer):
            readers.setdefault(tensor.name, []).append(layer)
    kinds = tensorrt.LayerType
    passed = {kinds.SHUFFLE, kinds.IDENTITY} | ({kinds.CAST} if hasattr(kinds, "CAST") else set())

    def maker(tensor: Any) -> Any:
        layer = makers.get(tensor.name)
        while layer is not None and layer.type in passed:
            layer = makers.get(layer.get_input(0).name)
        return layer

    def product_of(layer: Any) -> Any:
        """Return the only MatMul that reads a layer's output, directly or through Q/DQ; None if there is none or several."""
        while len(found := readers.get(layer.get_output(0).name, [])) == 1:
            layer = found[0]
            if layer.type == kinds.MATRIX_MULTIPLY:
                return layer
            if layer.type not in passed | {kinds.QUANTIZE, kinds.DEQUANTIZE}:
                return None
        return None

    found = []
    for softmax in (layer for layer in layers if layer.type == kinds.SOFTMAX):
        masked, context = maker(softmax.get_input(0)), product_of(softmax)
        if masked is None or context is None or not _adds(masked, tensorrt):
            continue
        scores = next(
            (m for t in _inputs(masked) if (m := maker(t)) is not None and m.type == kinds.MATRIX_MULTIPLY), None
        )
        if scores is None:
            continue
        operands = [maker(tensor) for product in (scores, context) for tensor in _inputs(product)]
        quantized = all(operand is not None and operand.type == kinds.DEQUANTIZE for operand in operands)
        head_size = int(scores.get_input(0).shape[-1])
        found.append(Attention(name=softmax.name, head_size=head_size, quantized=quantized))
    return tuple(found)


def keep_unfused(network: Any, tensorrt: Any) -> None:
    """Make each softmax's output an output of a parsed network, which prevents TensorRT from fusing attention into one kernel.

    Nobody reads these outputs; see `TensorRtExecutor`. Raises BackendError for a network without softmax, and for a softmax whose
    shape is not [rows, heads, queries, keys] with a known number of heads.
    """
    layers = [network.get_layer(number) for number in range(network.num_layers)]
    weights = [layer.get_output(0) for layer in layers if layer.type == tensorrt.LayerType.SOFTMAX]
    if not weights:
        raise BackendError(
            "this model has no softmax that could be kept from being fused: leave out --unfused-attention"
        )
    for tensor in weights:
        shape = tuple(tensor.shape)
        if len(shape) != 4 or shape[1] < 1:
            raise BackendError(
                f"{tensor.name} has the shape {shape}, and --unfused-attention knows [rows, heads, queries, keys] alone: export "
                "the model by crossrt's own exporter"
            )
        network.mark_output(tensor)


def fused_attention(information: str, layers: int) -> str:
    """Return "n of L attention layers fused" from an engine's layer information, TensorRT's JSON at detailed verbosity.

    A kernel lists the nodes of the ONNX file that it computes. An engine with several profiles lists its layers for each profile;
    the profile with the fewest fused layers counts. The result is `unmeasured` if TensorRT does not report what it has fused (8.6
    reports only a whole subgraph), and if `information` is not such JSON.
    """
    try:
        entries = json.loads(information)["Layers"]
    except (ValueError, KeyError, TypeError):
        return UNMEASURED
    fused: dict[str, set[str]] = {}
    told = False
    for entry in entries:
        fields = entry if isinstance(entry, dict) else {"Name": str(entry)}
        name, kernel = str(fields.get("Name", "")), str(fields.get("TacticName", ""))
        profile = re.search(r"\[profile (\d+)\]", name)
        kernels = fused.setdefault(profile[1] if profile else "0", set())
        told = told or not name.startswith("{ForeignNode")
        if FUSED.search(name) or FUSED.search(kernel):
            nodes = re.findall(r"\blayer\.(\d+)\.", f"{fields.get('Metadata', '')} {name}")
            kernels.update(nodes or [name])
    if not entries or not told:
        return UNMEASURED
    return f"{min(min(len(kernels), layers) for kernels in fused.values())} of {layers} attention layers fused"


def _inputs(layer: Any) -> list[Any]:
    return [tensor for number in range(layer.num_inputs) if (tensor := layer.get_input(number)) is not None]


def _adds(layer: Any, tensorrt: Any) -> bool:
    if layer.type != tensorrt.LayerType.ELEMENTWISE:
        return False
    layer.__class__ = tensorrt.IElementWiseLayer  # the binding returns the base class, which lacks the operation
    return bool(layer.op == tensorrt.ElementWiseOperation.SUM)
