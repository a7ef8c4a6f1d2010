"""Attention in TensorRT: that a network holds it in the form that fuses, and how much of it an engine computes fused.

The form (TensorRT's documentation of its multi-head attention fusion): a product, the mask added, softmax, a product; in FP16
or BF16 with heads of 16 to 256 channels and a multiple of 8, in INT8 with Q/DQ before both products.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from ...engine.errors import BackendError

UNMEASURED = "unmeasured"
FUSED = re.compile(r"mha|flash_?att", re.IGNORECASE)
"""Parts of the names of fused attention layers or of their kernels: `_gemm_mha_v2` and `_gemv_mha_v1` (TensorRT 9 to 11),
`fused_mha` and `fmha` (before)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """An attention layer of a network: `name` is its softmax's, `quantized` whether all four operands come from Q/DQ."""

    name: str
    head_size: int
    quantized: bool


def attention_in(network: Any, tensorrt: Any) -> tuple[Attention, ...]:
    """Return the attention layers of a parsed network that have the form that fuses; others are left out."""
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
        """Return the one product that reads a layer's output, directly or through Q/DQ; None where there is not one."""
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
    """Make each softmax's output one of a parsed network, which keeps its attention from being computed in one kernel.

    Nobody reads these outputs; see `TensorRtExecutor`. Raises BackendError for a network without softmax, and for one whose size
    is not known from rows and tokens.
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
    """Read "n of L attention layers fused" from an engine's layer information, TensorRT's JSON at detailed verbosity.

    A kernel names the nodes of the ONNX file that it computes. An engine of several profiles lists its layers for each; the
    profile with the least counts. Where TensorRT tells nothing of what it has fused, as 8.6 does of a whole subgraph, and for
    what is no such JSON, it is `unmeasured`.
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
