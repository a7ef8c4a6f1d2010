"""The dialect of NVIDIA's NIM: `/v1/ranking` with `passages`. The answer has logits."""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, UnsetType

from .body import Body, Context, Count, encode, need_some
from .documents import Text, Usage
from .job import Job, Outcome


class Ranked(msgspec.Struct, gc=False):
    """One passage: its index in `passages`, its logit and, if asked for, the best window, in characters."""

    index: int
    logit: float
    window: tuple[int, int] | UnsetType = UNSET


class RankingAnswer(msgspec.Struct):
    """The answer, best first."""

    rankings: list[Ranked]
    usage: Usage


class Ranking(Body, kw_only=True):
    """Passages to rank for a query. `truncate` is NONE, which refuses passages that are too long, or END."""

    query: Text
    passages: Annotated[list[Text], msgspec.Meta(extra_json_schema={"minItems": 1})]
    truncate: Literal["NONE", "END"] | None = None
    top_k: Count | None = None

    def job(self) -> Job:
        """See `Body.job`."""
        need_some(self.passages, "passages")
        return Job(
            pairs=[(self.query.text, passage.text) for passage in self.passages],
            scores="raw",
            truncate=None if self.truncate is None else self.truncate == "END",
            top=self.top_k or None,
            exact=self.exact,
            windows=self.windows(),
            priority=self.priority or 0,
        )

    def encode_response(self, outcome: Outcome, context: Context) -> bytes:
        """See `Body.answer`."""
        rankings = [Ranked(place, logit) for place, logit in outcome.best(self.top_k or None)]
        if outcome.spans is not None:
            for ranked, span in zip(rankings, outcome.spans, strict=False):
                ranked.window = span
        return encode(RankingAnswer(rankings, Usage(outcome.tokens, outcome.tokens)))
