"""`Int8Result`: how a checkpoint was quantized to INT8, and how that was decided."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ...calibration.calibration_set import CalibrationSet
from ...calibration.judging_set import JudgingSet
from ...calibration.quantization import Quantization
from ...calibration.ranking_report import RankingReport
from ...calibration.recipe import Recipe
from ...calibration.tensor_stats import TensorStats
from ..graph.numerics import Numerics
from .multiply_adds import MultiplyAdds
from .quantization_points import QuantizationPoint
from .sensitivity import Sensitivity

MIN_SHARE = 0.85
"""Minimum share of multiply-adds that must run in 8 bits, of the linear layers that the recipe names. A model below it is INT8
in name only."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Int8Result:
    """How a checkpoint's INT8 graph is computed, and how that was decided.

    `quantized` has the quantization of every point, including the points that were restored to floating point. `numerics` does
    not have the latter. `sensitivities` has the worst group first. `rankings` has a report for each installed backend that runs
    ONNX files.
    """

    recipe: Recipe
    numerics: Numerics
    quantized: Mapping[str, Quantization]
    sensitivities: tuple[Sensitivity, ...]
    multiply_adds: MultiplyAdds
    rankings: Mapping[str, RankingReport]
    calibration: CalibrationSet
    judging: JudgingSet
    points: tuple[QuantizationPoint, ...]
    stats: Mapping[str, TensorStats]

    @property
    def nominal_share(self) -> float:
        """Share of all linear layers' multiply-adds that the recipe names. It is 1 unless the recipe is `ffn`."""
        return sum(one.share for one in self.sensitivities)

    @property
    def restored(self) -> list[str]:
        """The groups that were restored to floating point, the worst first."""
        return [one.group for one in self.sensitivities if one.restored]

    @property
    def failures(self) -> list[str]:
        """Return the reasons why the model may not be called INT8; empty if it may."""
        needed = MIN_SHARE * self.nominal_share
        if self.multiply_adds.share >= needed:
            return []
        floating = sorted(self.multiply_adds.floating, key=self.multiply_adds.floating.__getitem__, reverse=True)
        return [
            f"{self.multiply_adds.share:.1%} of the linear layers' multiply-adds run in 8 bits, {needed:.0%} are needed; in "
            f"floating point are {', '.join(floating[:8])}"
        ]

    def summary(self) -> dict[str, Any]:
        """Return the part that the manifest keeps."""
        return {
            "recipe": str(self.recipe),
            "calibrated_on": {
                "source": self.calibration.source,
                "pairs": len(self.calibration.pairs),
                "seed": self.calibration.seed,
                "sha256": self.calibration.sha256,
            },
            "judged_on": {"source": self.judging.source, "sha256": self.judging.sha256},
            "eight_bit_share": self.multiply_adds.share,
            "restored": self.restored,
        }

    def to_json(self) -> dict[str, Any]:
        """Return the content of calibration.int8.json: everything but the tensors' statistics."""
        return self.summary() | {
            "rankings": {backend: asdict(ranking) for backend, ranking in self.rankings.items()},
            "sensitivities": [one.to_json() for one in self.sensitivities],
            "floating": self.multiply_adds.floating,
            "points": {name: quantization.to_json() for name, quantization in self.quantized.items()},
        }

    @property
    def lines(self) -> list[str]:
        """The part of the parity report on how the model was quantized, as lines."""
        return [
            f"  recipe               {self.recipe}",
            f"  calibrated on        {len(self.calibration.pairs)} pairs, {self.calibration.source}",
            f"  in 8 bits            {self.multiply_adds.share:.1%} of the linear layers' multiply-adds, as executed",
            f"  back in FP32         {', '.join(self.restored) or 'nothing'}",
            f"  {'alone in 8 bits':<36} {'mean':>8} {'max':>8} {'share':>7}",
            *(
                f"    {one.group:<34} {one.mean_abs_diff:8.4f} {one.max_abs_diff:8.4f} {one.share:7.1%}"
                f"{'   back in FP32' if one.restored else ''}"
                for one in self.sensitivities
            ),
        ]
