"""`exact_top_k`: the k best of many pairs as a precise model ranks them, most of them scored by a cheaper one alone."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..activation import Floats
from ..bundle.score_error import ScoreError
from ..scores import best_first

Rows = npt.NDArray[np.int64]

WHOLE = 0.6
"""Share of the pairs beyond which all are scored precisely at once: little is saved, and a further round costs a wait."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TopK:
    """The best pairs: their `rows`, int64 [k], best first, and their precise `scores`, float32 [k].

    `rescored` pairs were scored precisely, in `rounds` requests, the last with this `margin`.
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
    error: ScoreError,
    *,
    activate: Callable[[Floats], Floats] = lambda scores: scores,
    weights: Floats | None = None,
) -> TopK:
    """Return the `k` pairs, or all of fewer, with the highest precise scores; equal scores keep the order given.

    `estimates` are the cheap scores of all pairs, float32 [n]; `rescore` gives the precise ones of some rows; both are
    relevances before the activation, which `activate`, monotonic, turns into the scores that are compared. `weights` float32
    [n] are the numbers of scores that an estimate is the sum of, whose errors add up; ones unless given.

    The pairs that may be among the best are scored precisely: those whose estimate, raised by the margin of `error`,
    reaches the k-th best precise score that is known. Both the k-th best score and the errors, which the margin is checked
    by, are known better after each round, so this is repeated until no pair is left that may. A pair without a finite
    estimate always may. The result is that of scoring all pairs precisely unless a pair that was left out has an error
    larger than the margin, and reaches the k-th best by it: one error counts, not the difference of two, since the k-th
    score itself is precise.
    """
    count = len(estimates)
    k = min(k, count)
    precise, known = np.zeros(count, dtype=np.float32), np.zeros(count, dtype=bool)
    if not k:
        return TopK(rows=np.zeros(0, dtype=np.int64), scores=precise[:0], rescored=0, rounds=0, margin=0.0)
    # The k-th estimate has the mean error too.
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
        if known.sum() + len(missing) > WHOLE * count:
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
