"""INT8: which tensors are held in 8 bits, what each of them costs, and which go back to floating point.

`eight_bit` runs the FP32 graph over calibration pairs, chooses how each tensor is quantised, measures the damage of each
part alone, and puts the worst parts back until the ranking of a judging set holds in every backend: what is not in 8 bits
ONNX Runtime computes in FP32, and OpenVINO in BF16 where the processor can.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from tqdm import tqdm

from ...calibration.calibration_set import CalibrationSet
from ...calibration.judging_set import JudgingSet
from ...calibration.quantization import Quantization
from ...calibration.quantization_search import choose_quantization
from ...calibration.ranking import Judge, RankingReport
from ...calibration.recipe import Recipe
from ...calibration.tensor_stats import TensorStats
from ...engine.backends.registry import ONNX_BACKENDS, installed_backends
from ...engine.batching.batch import Batch
from ...engine.text.pair_tokenizer import PairTokenizer
from ..checkpoint.checkpoint import Checkpoint
from ..graph.numerics import FP32, Numerics
from ..graph.writer import graph_of
from .execution import Execution, executed
from .fp16 import batches_of, logits_of
from .observation import observed
from .quantization_points import QuantizationPoint, quantization_points
from .tolerance import Tolerance

LEAST_SHARE = 0.85
"""Of the multiply-adds of the linear layers that the recipe names; a model with less is INT8 by name alone."""
SENSITIVITY_PAIRS = 64

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """What one unit does to the logits when it alone is in 8 bits: |logit - FP32| over a sample of the judging pairs.

    `share` is its part of the linear layers' multiply-adds; `restored` tells that it went back to floating point.
    """

    unit: str
    mean_abs_diff: float
    max_abs_diff: float
    share: float
    restored: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EightBit:
    """How a checkpoint's INT8 graph is computed, and how that was decided.

    `quantized` holds what was chosen for every point, also for those that went back to floating point, which are not in
    `numerics`. `sensitivities` has the worst unit first.
    """

    recipe: Recipe
    numerics: Numerics
    quantized: Mapping[str, Quantization]
    sensitivities: tuple[Sensitivity, ...]
    execution: Execution
    rankings: Mapping[str, RankingReport]
    """As each backend that is installed computes it."""
    calibration: CalibrationSet
    judging: JudgingSet
    points: tuple[QuantizationPoint, ...]
    activations: Mapping[str, TensorStats]

    @property
    def nominal_share(self) -> float:
        """Share of the linear layers' multiply-adds that the recipe names: 1, or that of the feed-forward layers."""
        return sum(one.share for one in self.sensitivities)

    @property
    def failures(self) -> list[str]:
        """What forbids to call it INT8; empty when nothing does."""
        needed = LEAST_SHARE * self.nominal_share
        if self.execution.share >= needed:
            return []
        floating = sorted(self.execution.floating, key=self.execution.floating.__getitem__, reverse=True)
        return [
            f"{self.execution.share:.1%} of the linear layers' multiply-adds run in 8 bits, {needed:.0%} are needed; in "
            f"floating point are {', '.join(floating[:8])}"
        ]

    def summary(self) -> dict[str, Any]:
        """Return what the manifest keeps."""
        return {
            "recipe": str(self.recipe),
            "calibrated_on": {
                "source": self.calibration.source,
                "pairs": len(self.calibration.pairs),
                "seed": self.calibration.seed,
                "sha256": self.calibration.sha256,
            },
            "judged_on": {"source": self.judging.source, "sha256": self.judging.sha256},
            "eight_bit_share": self.execution.share,
            "restored": [one.unit for one in self.sensitivities if one.restored],
        }

    def to_json(self) -> dict[str, Any]:
        """Return everything but the activations."""
        return self.summary() | {
            "rankings": {backend: asdict(ranking) for backend, ranking in self.rankings.items()},
            "sensitivities": [asdict(one) for one in self.sensitivities],
            "floating": self.execution.floating,
            "points": {name: quantization.to_json() for name, quantization in self.quantized.items()},
        }

    @property
    def lines(self) -> list[str]:
        """What a person reads."""
        restored = [one.unit for one in self.sensitivities if one.restored]
        return [
            f"  recipe               {self.recipe}",
            f"  calibrated on        {len(self.calibration.pairs)} pairs, {self.calibration.source}",
            f"  in 8 bits            {self.execution.share:.1%} of the linear layers' multiply-adds, as executed",
            f"  back in FP32         {', '.join(restored) or 'nothing'}",
            f"  {'alone in 8 bits':<36} {'mean':>8} {'max':>8} {'share':>7}",
            *(
                f"    {one.unit:<34} {one.mean_abs_diff:8.4f} {one.max_abs_diff:8.4f} {one.share:7.1%}"
                f"{'   back in FP32' if one.restored else ''}"
                for one in self.sensitivities
            ),
        ]


def eight_bit(
    checkpoint: Checkpoint,
    encoder: PairTokenizer,
    calibration: CalibrationSet,
    judge: Judge,
    recipe: Recipe,
    tolerance: Tolerance,
    *,
    progress: bool = False,
) -> EightBit:
    """Choose what runs in 8 bits, and how, so that the judging set keeps its order and 85 % of the work is integer.

    A unit that does more damage goes back before one that does less, as long as the share holds. The result may still
    fail: see its `failures` and the tolerance. Raises DataFileError for a tensor that no range fits.
    """
    points = quantization_points(checkpoint, recipe)
    seen = observed(checkpoint, points, encoder.encode(calibration.pairs), seed=calibration.seed, progress=progress)
    quantized = quantizations(checkpoint, seen, recipe, progress=progress)
    pad_id = checkpoint.pad_token_id
    pairs = judge.judging.pairs
    sensitivities = _sensitivities(
        checkpoint,
        points,
        quantized,
        list(batches_of(encoder, random.Random(0).sample(pairs, SENSITIVITY_PAIRS), pad_id=pad_id)),
        progress,
    )
    batches = list(batches_of(encoder, pairs, pad_id=pad_id))
    needed = LEAST_SHARE * sum(one.share for one in sensitivities)
    restored: list[str] = []
    while True:
        kept = {point.name: quantized[point.name] for point in points if point.unit not in restored}
        numerics = Numerics(quantized=kept)
        graph = graph_of(checkpoint, numerics)
        execution = executed(graph, batches[len(batches) // 2])
        rankings = {
            backend: judge.report(checkpoint.relevance(_in_order(_computed(backend, graph, batches), batches)))
            for backend in installed_backends()
            if backend in ONNX_BACKENDS
        }
        candidates = [
            one for one in sensitivities if one.unit not in restored and execution.share - one.share >= needed
        ]
        if not any(map(tolerance.ranking_failures, rankings.values())) or not candidates:
            break
        restored.append(candidates[0].unit)
    return EightBit(
        recipe=recipe,
        numerics=numerics,
        quantized=quantized,
        sensitivities=tuple(Sensitivity(**(asdict(one) | {"restored": one.unit in restored})) for one in sensitivities),
        execution=execution,
        rankings=rankings,
        calibration=calibration,
        judging=judge.judging,
        points=points,
        activations=seen,
    )


def quantizations(
    checkpoint: Checkpoint, seen: Mapping[str, TensorStats], recipe: Recipe, *, progress: bool = False
) -> dict[str, Quantization]:
    """Choose, for each point of a recipe, how it is held in 8 bits, from what calibration saw of its tensor."""
    return {
        point.name: choose_quantization(
            seen[point.tensor], [checkpoint.tensor(f"{linear}.weight") for linear in point.linears], recipe
        )
        for point in tqdm(
            quantization_points(checkpoint, recipe), desc="Choosing ranges", unit="tensor", disable=not progress
        )
    }


def _sensitivities(
    checkpoint: Checkpoint,
    points: Sequence[QuantizationPoint],
    quantized: Mapping[str, Quantization],
    batches: Sequence[Batch],
    progress: bool,
) -> list[Sensitivity]:
    """Each unit alone in 8 bits, the worst first."""
    exact = logits_of(graph_of(checkpoint, FP32), batches)
    total = sum(checkpoint.tensor(f"{linear}.weight").size for linear in _linears(checkpoint))
    found = []
    for unit in tqdm(
        dict.fromkeys(point.unit for point in points), desc="Sensitivity", unit="part", disable=not progress
    ):
        members = [point for point in points if point.unit == unit]
        alone = Numerics(quantized={point.name: quantized[point.name] for point in members})
        differences = np.abs(logits_of(graph_of(checkpoint, alone), batches) - exact)
        weights = sum(checkpoint.tensor(f"{linear}.weight").size for point in members for linear in point.linears)
        found.append(
            Sensitivity(
                unit=unit,
                mean_abs_diff=float(differences.mean()),
                max_abs_diff=float(differences.max()),
                share=weights / total,
            )
        )
    return sorted(found, key=lambda one: -one.mean_abs_diff)


def _linears(checkpoint: Checkpoint) -> list[str]:
    """The linear layers that are computed for every token; `[CLS]`'s own hardly count."""
    return [linear for point in quantization_points(checkpoint, Recipe()) for linear in point.linears]


def _computed(backend: str, graph: onnx.ModelProto, batches: Sequence[Batch]) -> Floats:
    if backend == "onnxruntime":
        return logits_of(graph, batches)
    from .openvino import logits_by_openvino

    return logits_by_openvino(graph, batches)


def _in_order(logits: Floats, batches: Sequence[Batch]) -> Floats:
    ordered = np.empty_like(logits)
    ordered[np.concatenate([batch.rows for batch in batches])] = logits
    return ordered
