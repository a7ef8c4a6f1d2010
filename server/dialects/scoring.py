"""The dialect of vLLM's `/score`: one text with many, or pairs. Scores are in the order of the texts."""

import msgspec
from msgspec import UNSET, UnsetType

from .body import Context, LimitedBody, encode, need_some
from .documents import Usage
from .job import Job, Outcome
from .request_error import RequestError

OneOrMany = str | list[str]
NAMES = (("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2"))
"""The pairs of fields that may hold the texts. A request has one of them."""


class Score(msgspec.Struct):
    """The score of one pair."""

    index: int
    score: float
    object: str = "score"


class ScoreAnswer(msgspec.Struct):
    """The answer, in the order of the pairs."""

    id: str
    object: str
    created: int
    model: str
    data: list[Score]
    usage: Usage


class ScoreBody(LimitedBody, kw_only=True):
    """Pairs to score. The first field holds one text, which is paired with each of the second, or as many texts as the second.

    Scores are the model's own, as in `CrossEncoder.predict`, or logits with `use_activation` false. A model with several labels
    gives the margin of the relevant one.
    """

    text_1: OneOrMany | UnsetType = UNSET
    text_2: OneOrMany | UnsetType = UNSET
    queries: OneOrMany | UnsetType = UNSET
    documents: OneOrMany | UnsetType = UNSET
    items: OneOrMany | UnsetType = UNSET
    data_1: OneOrMany | UnsetType = UNSET
    data_2: OneOrMany | UnsetType = UNSET
    use_activation: bool | None = None
    truncation: bool | None = None

    def job(self) -> Job:
        """See `Body.job`."""
        self.refuse_ranking()
        return Job(
            pairs=self._pairs(),
            scores="raw" if self.use_activation is False else "model",
            limits=self.limits(),
            truncate=self.truncation,
            priority=self.priority or 0,
        )

    def encode_response(self, outcome: Outcome, context: Context) -> bytes:
        """See `Body.answer`."""
        answer = ScoreAnswer(
            id=context.id,
            object="list",
            created=context.created,
            model=context.model,
            data=[Score(place, score) for place, score in enumerate(outcome.scores)],
            usage=Usage(outcome.tokens, outcome.tokens),
        )
        return encode(answer)

    def _pairs(self) -> list[tuple[str, str]]:
        for first, second in NAMES:
            left, right = getattr(self, first), getattr(self, second)
            if left is not UNSET and right is not UNSET:
                break
        else:
            raise RequestError(
                "validation", f"give {', or '.join(f'`{first}` and `{second}`' for first, second in NAMES)}"
            )
        need_some(left, first)
        need_some(right, second)
        left = [left] if isinstance(left, str) else left
        right = [right] if isinstance(right, str) else right
        if len(left) == 1:
            left = left * len(right)
        if len(left) != len(right):
            raise RequestError(
                "validation",
                f"`{first}` has {len(left)} texts and `{second}` {len(right)}; give one and many, or as many of both",
            )
        return list(zip(left, right, strict=True))
