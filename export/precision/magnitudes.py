"""`magnitudes`: the largest magnitude of each tensor of a graph on real pairs."""

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto, helper

from ...engine.batching.batch import Batch
from ..graph.session import feeds_of, session_of


def magnitudes(model: onnx.ModelProto, batches: Iterable[Batch]) -> dict[str, float]:
    """Return the largest magnitude of every tensor that the FP32 graph computes before its head, by the tensor's name.

    Padding counts too, because an infinity there is multiplied by an attention weight of zero, which gives NaN. The mask's own
    values do not count. Memory does not grow with the number of batches. The graph gets further outputs; it is not copied,
    because that would double the memory.
    """
    names = [
        node.output[0]
        for node in model.graph.node
        if not node.output[0].startswith(("mask.", "positions.", "head."))
        and not node.output[0].endswith("attention_masked")
        and node.output[0] != "logits"
    ]
    _add_maxima(model, names)
    session = session_of(model)
    del model  # the session has its own copy of the weights
    outputs = [f"{name}.magnitude" for name in names]
    largest = np.zeros(len(names))
    for batch in batches:
        largest = np.maximum(largest, session.run(outputs, feeds_of(session, batch)))
    by_name = dict(zip(names, largest.tolist(), strict=True))
    # Masked scores are not observed, because the mask's own values would count. Where a token is not masked, they are equal to
    # the scores.
    return by_name | {
        f"{name.removesuffix('scores')}masked": value
        for name, value in by_name.items()
        if name.endswith("attention_scores")
    }


def _add_maxima(model: onnx.ModelProto, names: Iterable[str]) -> None:
    """Add the largest magnitude of each of these tensors to a graph's outputs.

    Each is computed right after its tensor. At the end of the graph, it would keep the tensors of all layers in memory.
    """
    wanted = frozenset(names)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        nodes.append(node)
        name = node.output[0]
        if name in wanted:
            nodes.append(helper.make_node("Abs", [name], [f"{name}.absolute"]))
            nodes.append(helper.make_node("ReduceMax", [f"{name}.absolute"], [f"{name}.magnitude"], keepdims=0))
            model.graph.output.append(helper.make_tensor_value_info(f"{name}.magnitude", TensorProto.FLOAT, []))
    nodes_of_model = model.graph.node
    del nodes_of_model[:]
    nodes_of_model.extend(nodes)
