"""`Job`: what a client asks to have scored, whatever its dialect. `Outcome`: what the model gives for it."""

from typing import Literal, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from ...engine.activation import Floats
from ...engine.text.text_limits import TextLimits
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
    limits: TextLimits = TextLimits()
    truncate: bool | None = None
    top: int | None = None
    exact: bool | None = None
    windows: Windows | None = None
    priority: int = 0

    characters: int = 0
    """Characters of all texts; a query counts once for each of its pairs."""

    def __post_init__(self) -> None:
        self.characters = sum([len(query) + len(text) for query, text in self.pairs])


class Outcome(msgspec.Struct, kw_only=True):
    """The scores of a job.

    `scores` float32, [m] or with labels [m, labels], are those of the pairs `rows` int64 [m]: all pairs in their order, or with
    `exact` the best ones. `relevance` float32 [m] orders them. `spans` are the best windows of the texts, in characters.
    `tokens` counts the tokens that were scored, `cut` the pairs that were truncated and `lost` the tokens that they lost.
    """

    rows: npt.NDArray[np.int64]
    relevance: Floats
    scores: Floats
    tokens: int
    cut: int = 0
    lost: int = 0
    spans: list[tuple[int, int]] | None = None

    def best(self, top: int | None) -> npt.NDArray[np.int64]:
        """Return places in `rows`, of the `top` best or of all, best first. Equal scores keep the order of the pairs."""
        return (-self.relevance).argsort(kind="stable")[:top]
