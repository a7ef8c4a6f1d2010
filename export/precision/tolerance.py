"""How far a precision may drift from the reference, and the measurement behind each number."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ...calibration.ranking import RankingReport
from ...engine.precision import Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """Limits of the parity check.

    `max_abs` on |logit - reference|, `kendall_tau` on the mean over long lists. Over the lists of a judging set,
    `top10_overlap` is the least mean, and `ndcg10_drop` the most that nDCG@10 may fall. `ranked` precisions do not pass
    without a judging set.
    """

    max_abs: float
    kendall_tau: float
    ranked: bool = False
    top10_overlap: float = 0.0
    ndcg10_drop: float = 1.0

    def ranking_failures(self, ranking: RankingReport) -> list[str]:
        """Return each limit on a ranking that does not hold, in words."""
        found = []
        if ranking.top10_overlap < self.top10_overlap:
            found.append(f"the top ten overlap by {ranking.top10_overlap:.4f}, {self.top10_overlap} is needed")
        change = ranking.changes.get("nDCG@10")
        if change is not None and -change.difference > self.ndcg10_drop:
            found.append(f"nDCG@10 falls by {-change.difference:.4f}, {self.ndcg10_drop} is allowed")
        return found


TOLERANCE: Mapping[Precision, Tolerance] = MappingProxyType(
    {
        # Measured: 1e-5 on logits up to 11 (MiniLM-L-6, trained), from another order of summation. The rest is room for
        # deeper models and other processors. tau is free: exact duplicates among passages tie, and noise orders them.
        Precision.FP32: Tolerance(max_abs=1e-4, kendall_tau=-1.0),
        # A way of computing the FP32 file. Measured in PyTorch's BF16: 0.117 on logits up to 11, mean 0.015, tau 0.996
        # over lists of 50 (MiniLM-L-6, trained).
        Precision.BF16: Tolerance(max_abs=0.3, kendall_tau=0.99),
        # Measured, with a rounding after every operator: 0.008 on logits up to 11 (MiniLM-L-6, trained).
        Precision.FP16: Tolerance(max_abs=0.03, kendall_tau=0.999),
        # Calibrated. Single logits may stray: 0.8 was measured on real pairs (MiniLM-L-6, trained), and more on texts
        # unlike any; what counts is the order.
        Precision.INT8: Tolerance(max_abs=5.0, kendall_tau=-1.0, ranked=True, top10_overlap=0.96, ndcg10_drop=0.003),
    }
)
