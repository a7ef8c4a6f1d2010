"""How far one ranking lies from another."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .judging_set import JudgingSet
from .paired_difference import PairedDifference

MEASURES = ("nDCG@10", "RR@10")

Scores = npt.NDArray[np.float32]


def kendall_tau(reference: Scores, candidate: Scores) -> float:
    """Return Kendall's tau-b of two score arrays [n], -1 to 1 (Kendall 1945; ties count half).

    Two constant arrays order nothing and agree: 1. One constant array has lost the order: 0.
    """
    constant = [bool(np.ptp(scores) == 0) for scores in (reference, candidate)]
    if any(constant):
        return 1.0 if all(constant) else 0.0
    from scipy import stats  # not needed, and often not there, where engines are built

    return float(stats.kendalltau(reference, candidate).statistic)


def top_overlap(reference: Scores, candidate: Scores, depth: int = 10) -> float:
    """Return the share of the reference's best `depth` that are among the candidate's, 0 to 1; ties in input order."""
    depth = min(depth, len(reference))
    best = [set(np.argsort(-scores, kind="stable")[:depth].tolist()) for scores in (reference, candidate)]
    return len(best[0] & best[1]) / depth if depth else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingReport:
    """How a candidate ranks the lists of a judging set, beside the reference. Means over all queries.

    `changes` are of measures against relevance, by the measure's name; empty where the set has no qrels.
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
    changes: Mapping[str, PairedDifference]

    @property
    def lines(self) -> list[str]:
        """What a person reads."""
        found = [
            f"ranking of {self.queries} queries, {self.pairs} pairs, {self.source}",
            f"  Kendall tau          {self.kendall_tau:.4f}",
            f"  top-10 overlap       {self.top10_overlap:.4f}   95 % interval {self.top10_overlap_low:.3f} to "
            f"{self.top10_overlap_high:.3f}",
            f"  mean |difference|    {self.mean_abs_diff:.4f}",
        ]
        for name, change in self.changes.items():
            found.append(
                f"  {name:<19}  {change.reference:.4f} -> {change.candidate:.4f}   {change.difference:+.4f}, 95 % interval "
                f"{change.low:+.4f} to {change.high:+.4f}"
            )
        return found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judge:
    """A judging set with the scores that the reference gives its pairs, float32 [pairs]."""

    judging: JudgingSet
    expected: Scores

    def report(self, candidate: Scores) -> RankingReport:
        """Compare a candidate's scores, float32 [pairs], with the reference's. NaN ranks last."""
        candidate = np.nan_to_num(candidate, nan=float(np.finfo(np.float32).min))
        lists = [
            (self.expected[rows.start : rows.stop], candidate[rows.start : rows.stop]) for rows in self.judging.rows
        ]
        overlaps = [top_overlap(*both) for both in lists]
        overlap = PairedDifference.of(np.zeros(len(overlaps)), overlaps)
        return RankingReport(
            source=self.judging.source,
            sha256=self.judging.sha256,
            queries=len(lists),
            pairs=len(candidate),
            kendall_tau=float(np.mean([kendall_tau(*both) for both in lists])),
            top10_overlap=overlap.candidate,
            top10_overlap_low=overlap.low,
            top10_overlap_high=overlap.high,
            mean_abs_diff=float(np.abs(candidate.astype(np.float64) - self.expected).mean()),
            changes=self._changes(candidate),
        )

    def _changes(self, candidate: Scores) -> dict[str, PairedDifference]:
        qrels = (
            {query: self.judging.qrels[query] for query in self.judging.candidates if query in self.judging.qrels}
            if (self.judging.qrels)
            else {}
        )
        if not qrels:
            return {}
        import ir_measures

        measures = [ir_measures.parse_measure(name) for name in MEASURES]
        values: list[dict[tuple[str, str], float]] = []
        for scores in (self.expected, candidate):
            run = {
                query: dict(zip(ids, scores[rows.start : rows.stop].tolist(), strict=True))
                for (query, ids), rows in zip(self.judging.candidates.items(), self.judging.rows, strict=True)
                if query in qrels
            }
            values.append({(str(m.measure), m.query_id): m.value for m in ir_measures.iter_calc(measures, qrels, run)})
        return {
            name: PairedDifference.of(*([found[name, query] for query in qrels] for found in values))
            for name in MEASURES
        }
