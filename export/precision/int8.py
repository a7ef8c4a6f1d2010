"""`quantize_int8`: chooses which tensors of a model are in 8 bits, and how they are quantized.

The search runs the FP32 graph over calibration pairs, chooses the quantization of each tensor, and measures the error that each
group of tensors causes by itself. It then restores the worst groups to floating point until the ranking of a judging set is
within the limits in every backend. ONNX Runtime computes what is not in 8 bits in FP32; OpenVINO uses BF16 if the processor
supports it.
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from .int8_result import MIN_SHARE, Int8Result
from .multiply_adds import counted_multiply_adds
from .observation import observed
from .quantization_points import quantization_points
from .sensitivity import sensitivities_of
from .tolerance import Tolerance

SENSITIVITY_PAIRS = 64
"""Number of judging pairs on which the error of each group is measured."""

Rank: TypeAlias = Callable[[onnx.ModelProto], Iterable[tuple[str, RankingReport]]]
"""A function that returns the name of each backend that computes a graph, and how the graph ranks the judging set there.

If a group can still be restored, the search asks no other backend after one that failed.
"""


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
    """Choose what runs in 8 bits, and how, so that the judging set keeps its order and 85 % of the recipe's work is in 8 bits.

    `rank` is called with each candidate graph; the last call has the graph that is returned. Groups are restored to floating
    point in descending order of their error. A group is skipped if the share in 8 bits would become too small. The result may
    still fail: see its `failures` and `tolerance`. Raises DataFileError for a tensor that no range fits.
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
    needed = MIN_SHARE * sum(one.share for one in sensitivities)
    restored: list[str] = []
    while True:
        numerics = Numerics(
            quantized={point.name: quantized[point.name] for point in points if point.group not in restored}
        )
        graph = graph_of(checkpoint, numerics)
        multiply_adds = counted_multiply_adds(graph, _middle(batches))
        candidates = [
            one for one in sensitivities if one.group not in restored and multiply_adds.share - one.share >= needed
        ]
        rankings, failed = {}, False
        for backend, ranking in rank(graph):
            rankings[backend] = ranking
            failed = bool(tolerance.ranking_failures(ranking))
            if failed and candidates:
                break
        if not failed or not candidates:
            break
        restored.append(candidates[0].group)
    return Int8Result(
        recipe=recipe,
        numerics=numerics,
        quantized=quantized,
        sensitivities=tuple(replace(one, restored=one.group in restored) for one in sensitivities),
        multiply_adds=multiply_adds,
        rankings=rankings,
        calibration=calibration,
        judging=judging,
        points=points,
        stats=stats,
    )


def quantizations(
    checkpoint: Checkpoint, stats: Mapping[str, TensorStats], recipe: Recipe, *, progress: bool = False
) -> dict[str, Quantization]:
    """Choose the quantization of each point of a recipe, from the statistics of its tensor."""
    return {
        point.name: choose_quantization(
            stats[point.tensor], [checkpoint.tensor(f"{linear}.weight") for linear in point.linears], recipe
        )
        for point in tqdm(
            quantization_points(checkpoint, recipe), desc="Choosing ranges", unit="tensor", disable=not progress
        )
    }


def _middle(batches: Sequence[Batch]) -> Batch:
    """Return the batch of median length. Batches are sorted by length."""
    return batches[len(batches) // 2]
