"""`exact_best`: the items of a request that a precise scorer ranks highest, found with the help of a cheap one."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..bundle.score_error import ScoreError
from ..scores import raw_relevance
from .request import BestWindows, Floats, Request, Scored
from .scorer import Scorer
from .top_k import Rows, exact_top_k


def exact_best(
    request: Request,
    items: Sequence[Any],
    k: int,
    *,
    cheap: Scorer,
    precise: Scorer,
    error: ScoreError,
    activate: Callable[[Floats], Floats],
    progress: Callable[[int], object] = lambda rows: None,
) -> tuple[Rows, Scored]:
    """Return the rows of the `k` best items, best first, int64 [k], and what the precise scorer gives for them.

    All items are scored by `cheap`, whose `error` is known, and by `precise` those that may be among the best: see
    `exact_top_k`. `activate` is monotonic. The request has a relevant label. Where the precise scorer gives NaN or Inf the
    item is returned among the best, for the caller to refuse.
    """
    assert request.label is not None
    label = request.label
    estimate = request.score(items, cheap, progress=progress)
    again = replace(request, counter=None)  # what was cut is counted already
    found: dict[int, tuple[Floats, tuple[int, int, int]]] = {}

    def rescore(rows: Rows) -> Floats:
        scored = again.score([items[row] for row in rows.tolist()], precise)
        best = scored.best
        for place, row in enumerate(rows.tolist()):
            window = (0, 0, 1) if best is None else (best.places[place], best.sizes[place], best.counts[place])
            found[row] = scored.logits[place], window
        relevance = raw_relevance(scored.logits, label)
        return np.where(np.isnan(relevance), np.float32(np.inf), relevance)

    sums = estimate.best is not None and request.windows is not None and request.windows.aggregate == "sum"
    weights = estimate.best.counts.astype(np.float32) if sums and estimate.best is not None else None
    best = exact_top_k(raw_relevance(estimate.logits, label), k, rescore, error, activate=activate, weights=weights)
    chosen = [found[row] for row in best.rows.tolist()]
    logits = np.array([row for row, _ in chosen], dtype=np.float32).reshape(len(chosen), request.labels)
    if request.windows is None:
        return best.rows, Scored(logits=logits, best=None)
    places, sizes, counts = np.array([window for _, window in chosen], dtype=np.int64).reshape(-1, 3).T
    return best.rows, Scored(logits=logits, best=BestWindows(places=places, sizes=sizes, counts=counts))
