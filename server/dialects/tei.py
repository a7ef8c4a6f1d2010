"""The dialect of Hugging Face's text-embeddings-inference: `texts` for `/rerank`, `inputs` for `/predict`."""

from typing import Any, ClassVar

import msgspec
from msgspec import UNSET, UnsetType

from ...engine.text.encoded_pairs import TruncationSide
from ...engine.text.text_limits import TextLimits
from .body import Body, Context, Count, Texts, encode, need_some
from .job import Job, Outcome, Pair
from .request_error import RequestError


class Rank(msgspec.Struct, gc=False):
    """One text: its index in `texts`, its score and, if asked for, the text and the best window, in characters."""

    index: int
    score: float
    text: str | UnsetType = UNSET
    window: tuple[int, int] | UnsetType = UNSET


class Prediction(msgspec.Struct):
    """The score of one label."""

    score: float
    label: str


class TeiBody(Body, kw_only=True):
    """What `/rerank` and `/predict` have in common. `truncation_direction` may be in upper or lower case."""

    tei: ClassVar[bool] = True
    truncate: bool | None = None
    truncation_direction: str = "right"
    raw_scores: bool = False

    def side(self) -> TextLimits:
        """Return the side on which texts are truncated. Raises RequestError for another `truncation_direction`."""
        side = self.truncation_direction.lower()
        if side not in ("left", "right"):
            raise RequestError(
                "validation",
                f"`truncation_direction` is {self.truncation_direction[:40]!r}; give `left` or `right`",
                logged="`truncation_direction` is neither `left` nor `right`",
            )
        truncation: TruncationSide = "left" if side == "left" else "right"
        return TextLimits(side=truncation)


class TeiRerank(TeiBody, kw_only=True):
    """Texts to rank for a query. Scores are sigmoids, or with `raw_scores` logits."""

    query: str
    texts: Texts
    return_text: bool = False
    top_k: Count | None = None

    def job(self) -> Job:
        """See `Body.job`."""
        need_some(self.texts, "texts")
        query = self.query
        return Job(
            pairs=[(query, text) for text in self.texts],
            scores="raw" if self.raw_scores else "sigmoid",
            limits=self.side(),
            truncate=self.truncate,
            top=self.top_k or None,
            exact=self.exact,
            windows=self.windows(),
            priority=self.priority or 0,
        )

    def encode_response(self, outcome: Outcome, context: Context) -> bytes:
        """See `Body.answer`. The answer is a plain list, best first."""
        ranks = [Rank(place, score) for place, score in outcome.best(self.top_k or None)]
        if self.return_text:
            for rank in ranks:
                rank.text = self.texts[rank.index]
        if outcome.spans is not None:
            for rank, span in zip(ranks, outcome.spans, strict=False):
                rank.window = span
        return encode(ranks)


class TeiPredict(TeiBody, kw_only=True):
    """`inputs` is one pair of texts or a list of pairs. Scores are probabilities, or logits with `raw_scores`."""

    inputs: str | list[str | list[str]]

    def job(self) -> Job:
        """See `Body.job`."""
        self.refuse_ranking()
        return Job(
            pairs=self._pairs(),
            scores="raw_labels" if self.raw_scores else "labels",
            limits=self.side(),
            truncate=self.truncate,
            priority=self.priority or 0,
        )

    def _pairs(self) -> list[Pair]:
        need_some(self.inputs, "inputs")
        pairs: list[Any] = [self.inputs] if self._single else list(self.inputs)
        for place, pair in enumerate(pairs):
            if isinstance(pair, str) or len(pair) != 2:
                raise RequestError(
                    "validation",
                    f"`inputs` holds {1 if isinstance(pair, str) else len(pair)} texts at {place}; this model scores pairs: give "
                    "[query, text], or a list of such pairs",
                )
        return [(query, text) for query, text in pairs]

    @property
    def _single(self) -> bool:
        return isinstance(self.inputs, str) or all(isinstance(each, str) for each in self.inputs)

    def encode_response(self, outcome: Outcome, context: Context) -> bytes:
        """See `Body.answer`. The answer has each pair's labels, best first."""
        answers = [_predictions(row, context.labels) for row in outcome.labels]
        return encode(answers[0] if self._single else answers)


def _predictions(row: list[float], labels: tuple[str, ...]) -> list[Prediction]:
    found = [Prediction(score, label) for score, label in zip(row, labels, strict=True)]
    return sorted(found, key=lambda each: -each.score)
