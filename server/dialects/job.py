"""`Job`: what a client wants scored, independent of its dialect. `Outcome`: the model's result."""

from itertools import chain
from typing import Literal, TypeAlias

import msgspec

from ...engine.text.text_limits import NO_LIMITS, TextLimits
from ...engine.text.windows import Windows

Pair: TypeAlias = tuple[str, str]
ScoreKind: TypeAlias = Literal["sigmoid", "raw", "model", "labels", "raw_labels"]
"""The kind of scores that a client wants.

- `raw`: the relevance, which is the logit or, with several labels, the margin.
- `sigmoid`: the sigmoid of `raw`.
- `model`: the model's own scores, as in `CrossEncoder.relevance`.
- `labels`: the probabilities of all labels.
- `raw_labels`: the logits of all labels.
"""


class Job(msgspec.Struct, kw_only=True, gc=False):
    """Pairs to score, and how.

    `limits` apply in addition to the model's own. `truncate` False refuses pairs that are too long; None means the server's
    setting. `top` is the number of best pairs that are wanted, or None for all. `exact` and `windows` are as in
    `CrossEncoder.rank`, and need one query for all pairs. A lower `priority` is served earlier.
    """

    pairs: list[Pair]
    scores: ScoreKind = "sigmoid"
    limits: TextLimits = NO_LIMITS
    truncate: bool | None = None
    top: int | None = None
    exact: bool | None = None
    windows: Windows | None = None
    priority: int = 0

    characters: int = 0
    """Number of characters of all texts. A query counts once for each of its pairs."""

    def __post_init__(self) -> None:
        self.characters = sum(map(len, chain.from_iterable(self.pairs)))


class Outcome(msgspec.Struct, kw_only=True):
    """The scores of a job.

    `scores` are the scores of all pairs in their order, and `relevance` is what to rank them by. A job for the labels has its
    scores in `labels` instead, a list for each pair. A job with `exact` or `windows` has only its best pairs, best first: `rows`
    are their indices, and `spans` their best windows, in characters. `tokens` is the number of tokens that were scored, `cut` the
    number of pairs that were truncated and `lost` the number of tokens that these lost.

    These are lists and not arrays, because numpy's calls are slow for a few numbers: they took 14 us of the 74 us of a request
    with one text.
    """

    tokens: int
    relevance: list[float] = []
    scores: list[float] = []
    labels: list[list[float]] = []
    rows: list[int] | None = None
    cut: int = 0
    lost: int = 0
    spans: list[tuple[int, int]] | None = None

    def best(self, top: int | None) -> list[tuple[int, float]]:
        """Return the indices and scores of the `top` best pairs, or of all, best first. Equal scores keep the pairs' order."""
        scores, relevance = self.scores, self.relevance
        if self.rows is not None:
            return list(zip(self.rows, scores, strict=True))[:top]
        order = sorted(range(len(relevance)), key=relevance.__getitem__, reverse=True)
        return [(row, scores[row]) for row in order[:top]]
