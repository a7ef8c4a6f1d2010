"""`RankingReport`: how a candidate ranks the lists of a judging set, compared with the reference."""

from collections.abc import Mapping
from dataclasses import dataclass

from ..engine.bundle.score_error import ScoreErrorStats
from .paired_difference import PairedDifference


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingReport:
    """How a candidate ranks the lists of a judging set, compared with the reference. Values are means over all queries.

    `mean_abs_diff` is the mean over all pairs. `score_error` is the error of the candidate's scores, which exact rankings need.
    `changes` are the differences of measures such as nDCG@10, by the measure's name; empty if the set has no qrels.
    """

    source: str
    sha256: str
    queries: int
    pairs: int
    kendall_tau: float
    top10_overlap: float
    top10_overlap_low: float
    top10_overlap_high: float
    mean_abs_diff: float
    score_error: ScoreErrorStats
    changes: Mapping[str, PairedDifference]

    @property
    def lines(self) -> list[str]:
        """The report as lines of text."""
        lines = [
            f"ranking of {self.queries} queries, {self.pairs} pairs, {self.source}",
            f"  Kendall tau          {self.kendall_tau:.4f}",
            f"  top-10 overlap       {self.top10_overlap:.4f}   95 % interval {self.top10_overlap_low:.3f} to "
            f"{self.top10_overlap_high:.3f}",
            f"  mean |difference|    {self.mean_abs_diff:.4f}",
            f"  error                {self.score_error.mean:+.4f} in the mean, deviation {self.score_error.deviation:.4f}, "
            f"99.9 % of the pairs at most {self.score_error.excess:.4f} above the mean",
        ]
        for name, change in self.changes.items():
            lines.append(
                f"  {name:<19}  {change.reference:.4f} -> {change.candidate:.4f}   {change.difference:+.4f}, 95 % interval "
                f"{change.low:+.4f} to {change.high:+.4f}"
            )
        return lines
