"""`Tolerance`: how far a precision may differ from the reference, with the measurement behind each limit."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ...calibration.ranking_report import RankingReport
from ...engine.precision import Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """Limits of the parity check.

    `max_abs` is the maximum of |logit - reference|, and `kendall_tau` the minimum of the mean over long lists. Two limits apply
    to the lists of a judging set: `top10_overlap` is the minimum of its mean, and `ndcg10_drop` is how much nDCG@10 may fall.
    Precisions with `ranked` do not pass without a judging set.
    """

    max_abs: float
    kendall_tau: float
    ranked: bool = False
    top10_overlap: float = 0.0
    ndcg10_drop: float = 1.0

    @property
    def limits_ranking(self) -> bool:
        """Whether a ranking of the judging set can make the check fail."""
        return self.ranked or self.top10_overlap > 0 or self.ndcg10_drop < 1

    def ranking_failures(self, ranking: RankingReport) -> list[str]:
        """Return each limit on rankings that `ranking` violates, in words."""
        failures = []
        if ranking.top10_overlap < self.top10_overlap:
            failures.append(f"the top ten overlap by {ranking.top10_overlap:.4f}, {self.top10_overlap} is needed")
        change = ranking.changes.get("nDCG@10")
        if change is not None and -change.difference > self.ndcg10_drop:
            failures.append(f"nDCG@10 falls by {-change.difference:.4f}, {self.ndcg10_drop} is allowed")
        return failures


TOLERANCE: Mapping[Precision, Tolerance] = MappingProxyType(
    {
        # Measured: 1e-5 on logits up to 11 (MiniLM-L-6, trained), due to a different order of summation. The rest is a margin
        # for deeper models and other processors. Kendall's tau has no limit, because duplicate passages are ties that noise
        # orders.
        Precision.FP32: Tolerance(max_abs=1e-4, kendall_tau=-1.0),
        # The FP32 file, computed in BF16. Measured in PyTorch's BF16: maximum 0.117 on logits up to 11, mean 0.015, tau 0.996
        # over lists of 50 (MiniLM-L-6, trained).
        Precision.BF16: Tolerance(max_abs=0.3, kendall_tau=0.99),
        # Measured, with a rounding after every operator: 0.008 on logits up to 11 (MiniLM-L-6, trained).
        Precision.FP16: Tolerance(max_abs=0.03, kendall_tau=0.999),
        # Single logits may differ a lot: 0.8 was measured on real pairs (MiniLM-L-6, trained), and more on texts that are unlike
        # all calibration pairs. The limits that matter are those on rankings.
        Precision.INT8: Tolerance(max_abs=5.0, kendall_tau=-1.0, ranked=True, top10_overlap=0.96, ndcg10_drop=0.003),
    }
)
