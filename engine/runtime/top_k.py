"""`exact_top_k`: finds the k pairs that a precise model ranks best, while most pairs are scored only by a cheaper model."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..activation import Floats
from ..bundle.score_error import ScoreErrorStats
from ..scores import best_first

Rows = npt.NDArray[np.int64]

RESCORE_ALL_SHARE = 0.6
"""If more than this share of the pairs is to be scored precisely, all pairs are, at once. Leaving some out would save little,
and a further round costs a wait."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TopK:
    """The best pairs: their `rows`, int64 [k], best first, and their precise `scores`, float32 [k].

    `rescored` pairs were scored precisely, in `rounds` requests. `margin` is the last margin.
    """

    rows: Rows
    scores: Floats
    rescored: int
    rounds: int
    margin: float


def exact_top_k(
    estimates: Floats,
    k: int,
    rescore: Callable[[Rows], Floats],
    error: ScoreErrorStats,
    *,
    activate: Callable[[Floats], Floats] = lambda scores: scores,
    weights: Floats | None = None,
) -> TopK:
    """Return the `k` pairs with the highest precise scores, or all if there are fewer. Equal scores keep the order given.

    `estimates` are the cheap scores of all pairs, float32 [n]. `rescore` returns the precise scores of some rows. Both are
    relevances before the activation. `activate`, which must be monotonic, turns them into the scores that are compared.
    `weights`, float32 [n], is for estimates that are sums, whose errors add up. It is the number of scores in each sum, by
    default 1.

    A pair is scored precisely if it may be among the best: if its estimate, raised by the margin of `error`, reaches the k-th
    best precise score known so far. Each round improves both the k-th best score and the margin, which is estimated again from
    the observed errors. This is repeated until no such pair is left. A pair without a finite estimate is always scored precisely.

    The result is that of scoring all pairs precisely, unless a pair that was left out has an error larger than the margin and
    reaches the k-th best score because of it. The margin covers one error, not the difference of two, since the k-th score
    itself is precise.
    """
    count = len(estimates)
    k = min(k, count)
    precise, known = np.zeros(count, dtype=np.float32), np.zeros(count, dtype=bool)
    if not k:
        return TopK(rows=np.zeros(0, dtype=np.int64), scores=precise[:0], rescored=0, rounds=0, margin=0.0)
    # The first k-th score is an estimate and has the mean error too, so the mean cancels out.
    margin = error.excess
    weights = np.ones(count, dtype=np.float32) if weights is None else weights
    estimates = np.where(np.isfinite(estimates), estimates, np.float32(np.inf))
    kth = np.sort(activate(estimates))[-k]
    rounds = 0
    while True:
        wanted = activate(estimates + np.float32(margin) * weights) >= kth
        missing = np.flatnonzero(wanted & ~known)
        if not len(missing):
            break
        if known.sum() + len(missing) > RESCORE_ALL_SHARE * count:
            missing = np.flatnonzero(~known)
        precise[missing] = rescore(missing)
        known[missing] = True
        rounds += 1
        if known.sum() >= k:
            kth = np.sort(activate(precise[known]))[-k]
        errors = (precise[known] - estimates[known]) / weights[known]
        margin = error.margin(errors[np.isfinite(errors)])
    known_rows = np.flatnonzero(known)
    scores = activate(precise[known_rows])
    best = best_first(scores, k)
    return TopK(rows=known_rows[best], scores=scores[best], rescored=len(known_rows), rounds=rounds, margin=margin)
