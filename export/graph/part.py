"""`part_of`: a range of a graph's nodes as a model of its own."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy.typing as npt
import onnx
from onnx import helper

from .typed_graph import TypedGraph
from .writer import model_of


def part_of(
    graph: TypedGraph, nodes: range, feeds: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str]
) -> onnx.ModelProto:
    """Return the nodes at the indices `nodes` of a graph as a model, with the initializers that they read.

    Tensors that they read from earlier nodes become inputs. `feeds` has an example of each by name, whose type and rank the
    input gets. The type of an output is left to the runtime.
    """
    taken = [graph.nodes[number] for number in nodes]
    read = dict.fromkeys(name for node in taken for name in node.input)
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), [None] * value.ndim)
        for name, value in feeds.items()
        if name in read
    ]
    part = model_of(
        helper.make_graph(taken, "part", inputs, [onnx.ValueInfoProto(name=name) for name in outputs]), graph.numerics
    )
    for name in read:
        tensor = graph.initializer(name)
        if tensor is not None:
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
