"""`Sensitivity`: how much the logits change if one group of tensors is in 8 bits."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from ...calibration.quantization import Quantization
from ...calibration.recipe import Recipe
from ...engine.batching.batch import Batch
from ..checkpoint.checkpoint import Checkpoint
from ..graph.numerics import FP32, Numerics
from ..graph.part import crossing, first_difference, part_of
from ..graph.session import logits_of, session_of
from ..graph.typed_graph import TypedGraph
from ..graph.writer import graph_of, typed_graph_of
from .quantization_points import QuantizationPoint, quantization_points

Tensor: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """The difference |logit - FP32 logit| with only one group in 8 bits, over a sample of the judging pairs.

    A group is a row of the report's table and a `unit` of calibration.int8.json. `share` is its share of the linear layers'
    multiply-adds. `restored` says that it was restored to floating point.
    """

    group: str
    mean_abs_diff: float
    max_abs_diff: float
    share: float
    restored: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the entry of calibration.int8.json, where the group is called `unit`."""
        return {
            "unit": self.group,
            "mean_abs_diff": self.mean_abs_diff,
            "max_abs_diff": self.max_abs_diff,
            "share": self.share,
            "restored": self.restored,
        }


def sensitivities_of(
    checkpoint: Checkpoint,
    points: Sequence[QuantizationPoint],
    quantized: Mapping[str, Quantization],
    batches: Sequence[Batch],
    *,
    progress: bool = False,
) -> list[Sensitivity]:
    """Measure each group with only that group in 8 bits. The worst group comes first.

    What precedes a group in the graph is in FP32 and does not change, so each group's logits are computed from there on.
    """
    exact = logits_of(graph_of(checkpoint, FP32), batches)
    tensors = _ExactTensors(typed_graph_of(checkpoint, FP32), batches)
    total = _multiply_adds(checkpoint, quantization_points(checkpoint, Recipe()))
    groups = dict.fromkeys(point.group for point in points)
    sensitivities = []
    for group in tqdm(groups, desc="Sensitivity", unit="group", disable=not progress):
        members = [point for point in points if point.group == group]
        alone = Numerics(quantized={point.name: quantized[point.name] for point in members})
        differences = np.abs(tensors.logits_of(typed_graph_of(checkpoint, alone)) - exact)
        sensitivities.append(
            Sensitivity(
                group=group,
                mean_abs_diff=float(differences.mean()),
                max_abs_diff=float(differences.max()),
                share=_multiply_adds(checkpoint, members) / total,
            )
        )
    return sorted(sensitivities, key=lambda one: -one.mean_abs_diff)


class _ExactTensors:
    """The FP32 tensors of all batches at one place in a model: those that the nodes from there on read.

    The place moves forward from group to group. It returns to the inputs for a graph that differs from the FP32 graph earlier.
    """

    def __init__(self, graph: TypedGraph, batches: Sequence[Batch]) -> None:
        """Start at the inputs of the FP32 graph."""
        self._nodes = graph.nodes
        self._batches = batches
        self._inputs = [field.name for field in fields(Batch)]
        self._start()

    def logits_of(self, graph: TypedGraph) -> npt.NDArray[np.float32]:
        """Return the logits of a graph that is like the FP32 graph up to some node, float32 [pairs, labels]."""
        place = first_difference(self._nodes, graph.nodes)
        if place < self._place:
            self._start()
        self._move(graph, place)
        rest = part_of(graph, range(place, len(graph.nodes)), self._tensors[0], ["logits"])
        del graph
        session = session_of(rest)
        del rest  # the session has its own copy of the weights
        return np.concatenate([_run(session, tensors, ["logits"])[0] for tensors in self._tensors])

    def _start(self) -> None:
        self._place = 0
        self._tensors: list[dict[str, Tensor]] = [asdict(batch) for batch in self._batches]

    def _move(self, graph: TypedGraph, place: int) -> None:
        """Compute the tensors at a later place."""
        read = crossing(graph.nodes, place, self._inputs)
        new = [name for name in read if name not in self._tensors[0]]
        if new:
            session = session_of(part_of(graph, range(self._place, place), self._tensors[0], new))
            for tensors in self._tensors:
                tensors |= zip(new, _run(session, tensors, new), strict=True)
        self._tensors = [{name: tensors[name] for name in read} for tensors in self._tensors]
        self._place = place


def _run(session: Any, tensors: Mapping[str, Tensor], outputs: Sequence[str]) -> list[Tensor]:
    computed: list[Tensor] = session.run(outputs, {field.name: tensors[field.name] for field in session.get_inputs()})
    return computed


def _multiply_adds(checkpoint: Checkpoint, points: Sequence[QuantizationPoint]) -> int:
    """Return the multiply-adds per token of the linear layers that read these points: one for each weight.

    The points of the default recipe cover every linear layer that is computed for each token. What is computed only for `[CLS]`
    is not counted, because it is a small part of the work.
    """
    return sum(int(checkpoint.tensor(f"{linear}.weight").size) for point in points for linear in point.linears)
