"""Measures of how far one ranking lies from another."""

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float32]


def kendall_tau(reference: Scores, candidate: Scores) -> float:
    """Return Kendall's tau-b of two score arrays [n], -1 to 1 (Kendall 1945; ties count half).

    Two constant arrays order nothing and agree: 1. One constant array has lost the order: 0.
    """
    constant = [bool(np.ptp(scores) == 0) for scores in (reference, candidate)]
    if any(constant):
        return 1.0 if all(constant) else 0.0
    from scipy import stats  # imported here, since machines that only build engines often lack it

    return float(stats.kendalltau(reference, candidate).statistic)


def top_overlap(reference: Scores, candidate: Scores, depth: int = 10) -> float:
    """Return the share of the reference's best `depth` that are among the candidate's, 0 to 1; ties in input order."""
    depth = min(depth, len(reference))
    best = [set(np.argsort(-scores, kind="stable")[:depth].tolist()) for scores in (reference, candidate)]
    return len(best[0] & best[1]) / depth if depth else 1.0
