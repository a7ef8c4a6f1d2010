"""The dialect of NVIDIA's NIM: `/v1/ranking` with `passages`, answered by logits."""

from typing import Annotated, Literal

import msgspec

from .body import Body, Context, Count, encode, need_some
from .documents import Text, Usage
from .job import Job, Outcome
from .request_error import RequestError


class Ranked(msgspec.Struct, gc=False):
    """One passage: its place in `passages`, and its logit."""

    index: int
    logit: float


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
        if self.window is not None:
            raise RequestError("validation", "`window` ranks documents; send them to /rerank")
        return Job(
            pairs=[(self.query.text, passage.text) for passage in self.passages],
            scores="raw",
            truncate=None if self.truncate is None else self.truncate == "END",
            top=self.top_k or None,
            exact=self.exact,
            priority=self.priority or 0,
        )

    def answer(self, outcome: Outcome, context: Context) -> bytes:
        """See `Body.answer`."""
        rankings = [Ranked(place, logit) for place, logit in outcome.best(self.top_k or None)]
        return encode(RankingAnswer(rankings, Usage(outcome.tokens, outcome.tokens)))
