"""`Job`: what a client asks to have scored, whatever its dialect. `Outcome`: what the model gives for it."""

from itertools import chain
from typing import Literal, TypeAlias

import msgspec

from ...engine.text.text_limits import NO_LIMITS, TextLimits
from ...engine.text.windows import Windows

Pair: TypeAlias = tuple[str, str]
ScoreKind: TypeAlias = Literal["sigmoid", "raw", "model", "labels", "raw_labels"]
"""Which scores are wanted.

`raw` is the relevance, which is the logit or, of several labels, the margin; `sigmoid` its sigmoid; `model` what the model itself
gives, as `CrossEncoder.relevance`; `labels` the probabilities of all labels; `raw_labels` their logits.
"""


class Job(msgspec.Struct, kw_only=True, gc=False):
    """Pairs to score, and how.

    `limits` are below the model's own. `truncate` False refuses pairs that are too long; None means the server's setting.
    `top` is how many of the best are wanted, None for all. `exact` and `windows` are as in `CrossEncoder.rank`; they need one
    query for all pairs. A lower `priority` is served earlier.
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
    """Characters of all texts; a query counts once for each of its pairs."""

    def __post_init__(self) -> None:
        self.characters = sum(map(len, chain.from_iterable(self.pairs)))


class Outcome(msgspec.Struct, kw_only=True):
    """The scores of a job.

    `scores` belong to all pairs in their order, and `relevance` is what to rank them by. A job that asks for the labels has its
    scores in `labels` instead, a list for each pair. A job with `exact` or `windows` has its best pairs alone, best first: `rows`
    are their indices, and `spans` their best windows, in characters. `tokens` is the number of tokens that were scored, `cut` the
    number of pairs that were truncated and `lost` the tokens that they lost.

    These are lists because numpy's calls take long for a few numbers: 14 us of the 74 of a request with one text were theirs.
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
