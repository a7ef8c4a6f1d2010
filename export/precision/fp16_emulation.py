"""Emulates the FP16 arithmetic of GPUs on the CPU.

ONNX Runtime's CPU provider computes most FP16 operators in FP32, so an FP16 file that overflows on a GPU can give finite scores
on a CPU. The graphs of this module are FP32, with an explicit rounding to FP16 wherever a GPU rounds. The CPU provider executes
these roundings.
"""

from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ...engine.bundle.native_weights import GATE_SCALE
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.heads import HEAD_LAYERS
from ..graph.writer import graph_of

_ATTENTION = "query_key_value query key_value attention_weights context attention_norm activation "
BERT_STORES = frozenset((_ATTENTION + "attention_output output output_norm").split())
MODERNBERT_STORES = frozenset((_ATTENTION + "turned feed_forward_norm intermediate").split())
"""Last parts of the names of a layer's tensors that the native GPU kernels store in FP16."""
EMBEDDINGS = ("embedding_norm", "project")
READ_EXACT_EMBEDDINGS = ("layer.0.attention_residual", "layer.0.cls")
"""Tensors of a ModernBERT that read the embeddings in FP32, because the embeddings are the first residual sum."""


def rounded_after_operators(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an FP32 graph that rounds to FP16 wherever the FP16 graph `model` does: after every FP16 operator.

    Matrix products accumulate in FP32 and round once, as on tensor cores with FP32 accumulators.
    """
    graph = onnx.GraphProto(name=model.graph.name, input=model.graph.input, output=model.graph.output)
    fp16 = set()
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float16:
            fp16.add(tensor.name)
            values = values.astype(np.float32)
        graph.initializer.append(numpy_helper.from_array(values, tensor.name))
    for original in model.graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(original)
        output = node.output[0]
        if node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT16:
            fp16.add(output)
            node.attribute[0].i = TensorProto.FLOAT
        elif node.op_type not in ("Cast", "QuantizeLinear") and any(name in fp16 for name in node.input):
            fp16.add(output)  # the writer gives all floating-point inputs of a node, and its output, one type
        graph.node.append(node)
        if output in fp16:
            _round_last(graph)
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def rounded_where_stored(checkpoint: Checkpoint) -> onnx.ModelProto:
    """Return an FP32 graph that rounds to FP16 where the native GPU kernels do.

    The weights of matrix products are FP16, and so is each tensor that one kernel stores for the next, except ModernBERT's
    residual sums. Other sums, LayerNorm and softmax are FP32. BERT's GELU is the tanh approximation, which cuBLAS offers.
    """
    modern = checkpoint.layout.encoder == "modernbert"
    if not modern:
        checkpoint = replace(checkpoint, dimensions=replace(checkpoint.dimensions, hidden_act="gelu_new"))
    graph = graph_of(checkpoint)
    for tensor in graph.graph.initializer:
        if _is_half(tensor.name, f"head.{len(HEAD_LAYERS[checkpoint.head].linears) - 1}.", modern=modern):
            with np.errstate(over="ignore"):  # an overflow becomes Inf, which the parity check reports
                values = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    stored = MODERNBERT_STORES if modern else BERT_STORES
    pooled = "final_norm" if checkpoint.dimensions.pooling == "cls" else "head.mean"
    nodes = list(graph.graph.node)
    del graph.graph.node[:]
    for node in nodes:
        output = node.output[0]
        if modern and output in READ_EXACT_EMBEDDINGS:
            node.input[:] = [f"{name}.exact" if name in EMBEDDINGS else name for name in node.input]
        graph.graph.node.append(node)
        stem, _, end = output.rpartition(".")
        if modern and end == "activation":
            _round_divided(graph.graph, GATE_SCALE)
        elif output in (*EMBEDDINGS, pooled) or (stem.startswith("layer.") and end in stored):
            _round_last(graph.graph)
    return graph


def _is_half(name: str, last: str, *, modern: bool) -> bool:
    """Tell whether the native GPU kernels store a weight or bias in FP16. `last` is the name prefix of the head's last layer."""
    if "norm." in name or name.startswith(last):
        return False
    if name.startswith("head."):
        return name.endswith(".weight")
    if modern and name.endswith(("attention_output.bias", ".output.bias")):
        return False
    return name == "word.weight" or name.startswith(("layer.", "project."))


def _round_divided(graph: onnx.GraphProto, by: int) -> None:
    """Round the output of the last node as if it were divided by `by`, rounded to FP16, and multiplied again."""
    output = graph.node[-1].output[0]
    scale = f"{output}.scale"
    graph.initializer.append(numpy_helper.from_array(np.array(by, dtype=np.float32), scale))
    graph.node[-1].output[0] = f"{output}.whole"
    graph.node.append(helper.make_node("Div", [f"{output}.whole", scale], [f"{output}.divided"]))
    _round_last(graph)
    graph.node.append(helper.make_node("Mul", [f"{output}.divided", scale], [output]))


def _round_last(graph: onnx.GraphProto) -> None:
    """Round the output of the last node to FP16, for all nodes that read it."""
    output = graph.node[-1].output[0]
    graph.node[-1].output[0] = f"{output}.exact"
    graph.node.append(helper.make_node("Cast", [f"{output}.exact"], [f"{output}.half"], to=TensorProto.FLOAT16))
    graph.node.append(helper.make_node("Cast", [f"{output}.half"], [output], to=TensorProto.FLOAT))
