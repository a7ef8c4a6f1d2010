"""How far a precision may drift from the reference, and the measurement behind each number."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ..engine.precision import Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """Limits of the parity check: `max_abs` on |logit - reference|, `kendall_tau` on the mean over long lists."""

    max_abs: float
    kendall_tau: float


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
    }
)
