"""`quantize_int8`: which tensors of a model are held in 8 bits, and how.

The search runs the FP32 graph over calibration pairs, chooses how each tensor is quantised, and measures the damage of each
group of tensors alone. It then puts the worst groups back into floating point until the ranking of a judging set holds in
every backend. What is not in 8 bits ONNX Runtime computes in FP32, and OpenVINO in BF16 where the processor can.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import onnx
from tqdm import tqdm

from ...calibration.calibration_set import CalibrationSet
from ...calibration.judging_set import JudgingSet
from ...calibration.quantization import Quantization
from ...calibration.quantization_search import choose_quantization
from ...calibration.ranking_report import RankingReport
from ...calibration.recipe import Recipe
from ...calibration.tensor_stats import TensorStats
from ...engine.batching.batch import Batch
from ...engine.text.pair_tokenizer import PairTokenizer
from ..checkpoint.checkpoint import Checkpoint
from ..graph.numerics import Numerics
from ..graph.session import batches_of
from ..graph.writer import graph_of
from .execution import executed
from .int8_result import LEAST_SHARE, Int8Result
from .observation import observed
from .quantization_points import quantization_points
from .sensitivity import sensitivities_of
from .tolerance import Tolerance

SENSITIVITY_PAIRS = 64
"""Judging pairs on which each group's damage is measured."""

Rank: TypeAlias = Callable[[onnx.ModelProto], Mapping[str, RankingReport]]
"""Returns how a graph ranks the judging set, by the name of each backend that computes it."""


def quantize_int8(
    checkpoint: Checkpoint,
    tokenizer: PairTokenizer,
    calibration: CalibrationSet,
    judging: JudgingSet,
    rank: Rank,
    recipe: Recipe,
    tolerance: Tolerance,
    *,
    progress: bool = False,
) -> Int8Result:
    """Choose what runs in 8 bits, and how, so that the judging set keeps its order and 85 % of the work is integer.

    `rank` is called with each candidate graph, the last time with the one that is returned. A group that does more damage
    goes back before one that does less, as long as the share holds. The result may still fail: see its `failures` and the
    tolerance. Raises DataFileError for a tensor that no range fits.
    """
    points = quantization_points(checkpoint, recipe)
    stats = observed(checkpoint, points, tokenizer.encode(calibration.pairs), seed=calibration.seed, progress=progress)
    quantized = quantizations(checkpoint, stats, recipe, progress=progress)
    batches = list(batches_of(tokenizer, judging.pairs, pad_id=checkpoint.pad_token_id))
    sample = random.Random(0).sample(judging.pairs, SENSITIVITY_PAIRS)
    sensitivities = sensitivities_of(
        checkpoint,
        points,
        quantized,
        list(batches_of(tokenizer, sample, pad_id=checkpoint.pad_token_id)),
        progress=progress,
    )
    needed = LEAST_SHARE * sum(one.share for one in sensitivities)
    restored: list[str] = []
    while True:
        numerics = Numerics(
            quantized={point.name: quantized[point.name] for point in points if point.group not in restored}
        )
        graph = graph_of(checkpoint, numerics)
        execution = executed(graph, _middle(batches))
        rankings = rank(graph)
        candidates = [
            one for one in sensitivities if one.group not in restored and execution.share - one.share >= needed
        ]
        if not any(map(tolerance.ranking_failures, rankings.values())) or not candidates:
            break
        restored.append(candidates[0].group)
    return Int8Result(
        recipe=recipe,
        numerics=numerics,
        quantized=quantized,
        sensitivities=tuple(replace(one, restored=one.group in restored) for one in sensitivities),
        execution=execution,
        rankings=rankings,
        calibration=calibration,
        judging=judging,
        points=points,
        stats=stats,
    )


def quantizations(
    checkpoint: Checkpoint, stats: Mapping[str, TensorStats], recipe: Recipe, *, progress: bool = False
) -> dict[str, Quantization]:
    """Choose for each point of a recipe how it is held in 8 bits, from the statistics of its tensor."""
    return {
        point.name: choose_quantization(
            stats[point.tensor], [checkpoint.tensor(f"{linear}.weight") for linear in point.linears], recipe
        )
        for point in tqdm(
            quantization_points(checkpoint, recipe), desc="Choosing ranges", unit="tensor", disable=not progress
        )
    }


def _middle(batches: Sequence[Batch]) -> Batch:
    """Return the batch of middle length, as batches are sorted by length."""
    return batches[len(batches) // 2]
