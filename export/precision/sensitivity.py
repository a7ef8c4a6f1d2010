"""`Sensitivity`: how much the logits change if one group of tensors is in 8 bits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from ...calibration.quantization import Quantization
from ...calibration.recipe import Recipe
from ...engine.batching.batch import Batch
from ..checkpoint.checkpoint import Checkpoint
from ..graph.numerics import FP32, Numerics
from ..graph.session import logits_of
from ..graph.writer import graph_of
from .quantization_points import QuantizationPoint, quantization_points


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
    """Measure each group with only that group in 8 bits. The worst group comes first."""
    exact = logits_of(graph_of(checkpoint, FP32), batches)
    total = _multiply_adds(checkpoint, quantization_points(checkpoint, Recipe()))
    groups = dict.fromkeys(point.group for point in points)
    sensitivities = []
    for group in tqdm(groups, desc="Sensitivity", unit="group", disable=not progress):
        members = [point for point in points if point.group == group]
        alone = Numerics(quantized={point.name: quantized[point.name] for point in members})
        differences = np.abs(logits_of(graph_of(checkpoint, alone), batches) - exact)
        sensitivities.append(
            Sensitivity(
                group=group,
                mean_abs_diff=float(differences.mean()),
                max_abs_diff=float(differences.max()),
                share=_multiply_adds(checkpoint, members) / total,
            )
        )
    return sorted(sensitivities, key=lambda one: -one.mean_abs_diff)


def _multiply_adds(checkpoint: Checkpoint, points: Sequence[QuantizationPoint]) -> int:
    """Return the multiply-adds per token of the linear layers that read these points: one for each weight.

    The points of the default recipe cover every linear layer that is computed for each token. What is computed only for `[CLS]`
    is not counted, because it is a small part of the work.
    """
    return sum(int(checkpoint.tensor(f"{linear}.weight").size) for point in points for linear in point.linears)
