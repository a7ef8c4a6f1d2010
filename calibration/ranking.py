"""Measures of the agreement of two rankings."""

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float32]


def kendall_tau(reference: Scores, candidate: Scores) -> float:
    """Return Kendall's tau-b of two score arrays [n], -1 to 1 (Kendall 1945), which accounts for ties.

    The result is 1 for two constant arrays, which agree because neither has an order. It is 0 if only one is constant, because it
    has lost the order.
    """
    constant = [bool(np.ptp(scores) == 0) for scores in (reference, candidate)]
    if any(constant):
        return 1.0 if all(constant) else 0.0
    from scipy import stats  # imported here, because machines that only build engines often lack SciPy

    return float(stats.kendalltau(reference, candidate).statistic)


def top_overlap(reference: Scores, candidate: Scores, depth: int = 10) -> float:
    """Return the share, 0 to 1, of the reference's top `depth` that is in the candidate's. Ties are in input order."""
    depth = min(depth, len(reference))
    best = [set(np.argsort(-scores, kind="stable")[:depth].tolist()) for scores in (reference, candidate)]
    return len(best[0] & best[1]) / depth if depth else 1.0
