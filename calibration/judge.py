"""`Judge`: compares the rankings of candidates with those of the reference, on a judging set."""

from dataclasses import dataclass

import numpy as np

from ..engine.bundle.score_error import ScoreErrorStats
from .judging_set import JudgingSet
from .paired_difference import PairedDifference
from .ranking import Scores, kendall_tau, top_overlap
from .ranking_report import RankingReport

MEASURES = ("nDCG@10", "RR@10")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judge:
    """A judging set, and the reference's scores of its pairs, `expected`, float32 [pairs]."""

    judging: JudgingSet
    expected: Scores

    def report(self, candidate: Scores) -> RankingReport:
        """Compare a candidate's scores, float32 [pairs], with the reference's. NaN is ranked last."""
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
            score_error=ScoreErrorStats.of(self.expected, candidate),
            changes=self._changes(candidate),
        )

    def _changes(self, candidate: Scores) -> dict[str, PairedDifference]:
        every = self.judging.qrels or {}
        qrels = {query: every[query] for query in self.judging.candidates if query in every}
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
            name: PairedDifference.of(*([value[name, query] for query in qrels] for value in values))
            for name in MEASURES
        }
