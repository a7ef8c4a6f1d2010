"""The dialect that Cohere, Jina, Voyage, vLLM and llama.cpp share: requests with `documents`, and one answer for all clients."""

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, UnsetType

from .body import Context, Count, LimitedBody, encode, need_some
from .job import Job, Outcome
from .request_error import RequestError

SEARCH_UNIT = 100
"""Number of documents that Cohere bills as one search."""


class Text(msgspec.Struct):
    """A text as an object, as Jina and NIM send it."""

    text: str


Document = str | dict[str, Any]
Fields = Annotated[list[str], msgspec.Meta(max_length=100)]
"""Names of fields. Their number is limited, since each is looked up in every document, and a body has room for a million."""


class Result(msgspec.Struct, gc=False):
    """One document: its index in `documents`, its score and, if asked for, the document and the best window, in characters.

    The document is an object with a `text`. In Infinity's dialect it is only the text.
    """

    index: int
    relevance_score: float
    document: dict[str, Any] | str | UnsetType = UNSET
    window: tuple[int, int] | UnsetType = UNSET


class VoyageResult(msgspec.Struct, gc=False):
    """A result as Voyage's client reads it."""

    index: int
    relevance_score: float
    document: str | UnsetType = UNSET


class Usage(msgspec.Struct):
    """Number of tokens that were scored, including special tokens."""

    total_tokens: int
    prompt_tokens: int


class Meta(msgspec.Struct):
    """Cohere's metadata of a request. `warnings` says what was truncated."""

    api_version: dict[str, str]
    billed_units: dict[str, int]
    tokens: dict[str, int]
    warnings: list[str] | UnsetType = UNSET


class RerankAnswer(msgspec.Struct):
    """The answer to `documents`. `data` is for Voyage's client, which sends `top_k`."""

    id: str
    object: str
    created: int
    model: str
    results: list[Result]
    usage: Usage
    meta: Meta
    data: list[VoyageResult] | UnsetType = UNSET


class Rerank(LimitedBody, kw_only=True):
    """Documents to rank for a query. `top_n` (Voyage: `top_k`) null or 0 means all.

    Scores are sigmoids, or logits with `raw_scores` (Infinity) or `use_activation` false (vLLM). `truncation` false (Voyage)
    refuses documents that are too long. Documents may be objects. Then their `text` is scored, or their `rank_fields` in that
    order.
    """

    query: str | Text
    documents: str | list[Document]
    top_n: Count | None = None
    top_k: Count | UnsetType | None = UNSET
    return_documents: bool | None = None
    rank_fields: Fields | None = None
    raw_scores: bool | None = None
    use_activation: bool | None = None
    truncation: bool | None = None

    def job(self) -> Job:
        """See `Body.job`."""
        need_some(self.documents, "documents")
        query = self.query if isinstance(self.query, str) else self.query.text
        raw = self.raw_scores or self.use_activation is False
        return Job(
            pairs=[
                (query, document if isinstance(document, str) else self._text(place, document))
                for place, document in enumerate(self._list())
            ],
            scores="raw" if raw else "sigmoid",
            limits=self.limits(),
            truncate=self.truncation,
            top=self._top(),
            exact=self.exact,
            windows=self.windows(),
            priority=self.priority or 0,
        )

    def encode_response(self, outcome: Outcome, context: Context) -> bytes:
        """See `Body.answer`."""
        best, documents = outcome.best(self._top()), self._list()
        if context.documents if self.return_documents is None else self.return_documents:
            results = [Result(place, score, self._shown(documents[place])) for place, score in best]
        else:
            results = [Result(place, score) for place, score in best]
        if outcome.spans is not None:
            for result, span in zip(results, outcome.spans, strict=False):
                result.window = span
        answer = RerankAnswer(
            id=context.id,
            object="rerank",
            created=context.created,
            model=context.model,
            results=results,
            usage=Usage(outcome.tokens, outcome.tokens),
            meta=self._meta(outcome, context),
        )
        if self.top_k is not UNSET and self.top_n is None:
            answer.object, answer.data = "list", self._for_voyage(results)
        return encode(answer)

    def _list(self) -> list[Document]:
        return [self.documents] if isinstance(self.documents, str) else self.documents

    def _top(self) -> int | None:
        top = self.top_n if self.top_n is not None or self.top_k is UNSET else self.top_k
        return top or None

    def _text(self, place: int, document: Document) -> str:
        if isinstance(document, str):
            return document
        fields = dict.fromkeys(
            self.rank_fields or ("text",)
        )  # each only once, since a long text that is named often would fill the memory
        texts = [document[field] for field in fields if field in document]
        if not texts or not all(isinstance(text, str) for text in texts):
            raise RequestError(
                "validation",
                f"`documents[{place}]` has no text in {', '.join(f'`{field}`' for field in fields)}; give texts, objects with a "
                "`text`, or name the fields in `rank_fields`",
                logged=f"`documents[{place}]` has no text in the fields that are scored",
            )
        return "\n".join(texts)

    def _shown(self, document: Document) -> dict[str, Any] | str:
        if isinstance(document, str):
            return {"text": document}
        return document if "text" in document else {"text": self._text(0, document), **document}

    def _for_voyage(self, results: list[Result]) -> list[VoyageResult]:
        documents = self._list() if self.return_documents else None
        return [
            VoyageResult(
                each.index,
                each.relevance_score,
                UNSET if documents is None else self._text(each.index, documents[each.index]),
            )
            for each in results
        ]

    def _meta(self, outcome: Outcome, context: Context) -> Meta:
        meta = Meta(
            api_version={"version": context.api_version},
            billed_units={"search_units": -(-len(self._list()) // SEARCH_UNIT)},
            tokens={"input_tokens": outcome.tokens, "output_tokens": 0},
        )
        if outcome.cut:
            meta.warnings = [
                f"{outcome.cut} of {len(self._list())} documents were truncated and lost {outcome.lost} tokens; `window` scores "
                "them whole"
            ]
        return meta
