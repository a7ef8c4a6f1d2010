"""`part_of`: a range of a graph's nodes as a model of its own."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy.typing as npt
import onnx
from onnx import helper


def part_of(
    model: onnx.ModelProto, nodes: range, feeds: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str]
) -> onnx.ModelProto:
    """Return the nodes at the indices `nodes` of a model, with the initializers that they read.

    Tensors that they read from earlier nodes become inputs. `feeds` has an example of each by name, whose type and rank the
    input gets. The type of an output is left to the runtime.
    """
    taken = [model.graph.node[number] for number in nodes]
    read = {name for node in taken for name in node.input}
    graph = helper.make_graph(
        taken,
        model.graph.name,
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), [None] * value.ndim)
            for name, value in feeds.items()
            if name in read
        ],
        [onnx.ValueInfoProto(name=name) for name in outputs],
    )
    part = helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version, producer_name=model.producer_name
    )
    for tensor in model.graph.initializer:
        if tensor.name in read:
            part.graph.initializer.append(tensor)
    return part


def first_difference(first: Sequence[onnx.NodeProto], second: Sequence[onnx.NodeProto]) -> int:
    """Return the index of the first node in which two graphs differ, or the length of the shorter one."""
    shorter = min(len(first), len(second))
    return next((number for number in range(shorter) if first[number] != second[number]), shorter)


def crossing(nodes: Sequence[onnx.NodeProto], cut: int, inputs: Iterable[str]) -> list[str]:
    """Return the tensors that the nodes from index `cut` on read from the nodes before it, and from the graph's `inputs`."""
    made = {*inputs, *(name for node in nodes[:cut] for name in node.output)}
    return list(dict.fromkeys(name for node in nodes[cut:] for name in node.input if name in made))
