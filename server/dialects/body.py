"""`Body`: what request bodies of all dialects have in common."""

from typing import Annotated, ClassVar, Literal

import msgspec

from ...engine.errors import CrossrtError
from ...engine.text.text_limits import NO_LIMITS, TextLimits
from ...engine.text.windows import Windows
from .job import Job, Outcome
from .request_error import RequestError

Texts = Annotated[list[str], msgspec.Meta(extra_json_schema={"minItems": 1})]
"""A list of texts. The dialects refuse an empty list, each with its own message. The decoder does not."""
MAX_INTEGER = 2**31 - 1
"""The largest number that a field accepts, so that computations with it do not overflow."""
Positive = Annotated[int, msgspec.Meta(ge=1, le=MAX_INTEGER)]
Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_INTEGER)]
Priority = Annotated[int, msgspec.Meta(ge=-MAX_INTEGER, le=MAX_INTEGER)]
"""No request is served before the readiness probe, which has the priority -MAX_INTEGER - 1."""


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer holds besides scores: an id, the time in seconds since 1970, the model's name and its labels.

    `documents` tells whether results hold their documents if the client does not say. `api_version` is for Cohere's client.
    """

    id: str
    created: int
    model: str
    labels: tuple[str, ...]
    documents: bool
    api_version: str


class Body(msgspec.Struct, kw_only=True):
    """Fields that every dialect has. Unknown fields are ignored, since clients send many.

    `model` names one of the served models. A lower `priority` is served earlier, as in vLLM and Cohere. `exact` returns the same
    top k as FP32. `window`, `stride` and `aggregate` score long texts in pieces: see `Windows`.
    """

    tei: ClassVar[bool] = False
    """Whether the clients of this dialect read TEI's errors and headers."""

    model: str | None = None
    priority: Priority | None = None
    exact: bool | None = None
    window: Positive | None = None
    stride: Positive | None = None
    aggregate: str = "max"

    def job(self) -> Job:
        """Return the job to score. Raises RequestError for a body with fields that are not allowed."""
        raise NotImplementedError

    def encode_response(self, outcome: Outcome, context: Context) -> bytes:
        """Return the answer as JSON."""
        raise NotImplementedError

    def windows(self) -> Windows | None:
        """Return how long texts are cut into windows, or None if they are truncated. Raises RequestError for invalid values."""
        if self.window is None:
            if self.stride is not None or self.aggregate != "max":
                raise RequestError("validation", "`stride` and `aggregate` go with `window`, the tokens of one window")
            return None
        stride = max(1, self.window // 2) if self.stride is None else self.stride
        try:
            return Windows(length=self.window, stride=stride, aggregate=self.aggregate)
        except CrossrtError as error:
            raise RequestError(
                "validation", str(error), logged="`window`, `stride` or `aggregate` is not allowed"
            ) from error

    def refuse_ranking(self) -> None:
        """Raise RequestError for fields that only a ranking may have. Bodies whose scores stay in the texts' order call this."""
        if self.exact or (self.window, self.stride, self.aggregate) != (None, None, "max"):
            raise RequestError(
                "validation", "`exact`, `window`, `stride` and `aggregate` are for rankings; send the texts to /rerank"
            )


class LimitedBody(Body, kw_only=True):
    """Fields with which clients of vLLM and Cohere limit texts.

    `truncate_prompt_tokens` is the most tokens of a pair; -1 means the model's own limit. `max_tokens_per_query` and
    `max_tokens_per_doc` are the most tokens of each text; 0 means no limit.
    """

    truncate_prompt_tokens: int | None = None
    truncation_side: Literal["left", "right"] | None = None
    max_tokens_per_query: Count | None = None
    max_tokens_per_doc: Count | None = None

    def limits(self) -> TextLimits:
        """Return the limits. Raises RequestError for one that leaves no tokens."""
        most = self.truncate_prompt_tokens
        asked = (most, self.max_tokens_per_query, self.max_tokens_per_doc, self.truncation_side)
        if asked == (None, None, None, None):
            return NO_LIMITS
        if most is not None and (most < -1 or most == 0):
            raise RequestError(
                "validation", f"`truncate_prompt_tokens` is {most}; give -1 for the model's own, or at least 1"
            )
        return TextLimits(
            pair=None if most == -1 else most,
            query=self.max_tokens_per_query or None,
            passage=self.max_tokens_per_doc or None,
            side=self.truncation_side,
        )

    def windows(self) -> Windows | None:
        """See `Body.windows`. Also raises RequestError for a limit of the pair, since the window is that limit."""
        if self.window is not None and self.truncate_prompt_tokens not in (None, -1):
            raise RequestError(
                "validation",
                "`truncate_prompt_tokens` and `window` exclude each other: a window is that many tokens of the pair; leave one "
                "out. `max_tokens_per_doc` and `max_tokens_per_query` go with `window`",
            )
        return super().windows()


def need_some(texts: object, field: str) -> None:
    """Raise RequestError for an empty list."""
    if texts == []:
        raise RequestError("empty", f"`{field}` is empty; give at least one text")


encode = msgspec.json.Encoder().encode
