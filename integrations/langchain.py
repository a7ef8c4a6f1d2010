"""LangChain: `CrossrtRerank` keeps the best documents, `CrossrtCrossEncoder` scores pairs. Needs langchain-core."""

from collections.abc import Sequence
from os import PathLike
from typing import Any

from langchain_core.callbacks import Callbacks
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import Field, PrivateAttr

from ..engine.cross_encoder import CrossEncoder
from .model import described, opened, relevance


class CrossrtCrossEncoder(BaseCrossEncoder):
    """Scores pairs of texts, for LangChain's own `CrossEncoderReranker` and others that take a `BaseCrossEncoder`.

    `model` is a bundle, a checkpoint, a hub id or an opened `CrossEncoder`; `model_kwargs` are the options to open it with.
    """

    def __init__(self, model: str | PathLike[str] | CrossEncoder, model_kwargs: dict[str, Any] | None = None) -> None:
        self.model = opened(model, model_kwargs)

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        """Return a score for each pair. The pairs may have different queries."""
        return relevance(self.model, text_pairs)


class CrossrtRerank(BaseDocumentCompressor):
    """Keeps the `top_n` documents that are most relevant to a query, best first, or all of them with `top_n=None`.

    They are copies, with the score in `metadata["relevance_score"]`. `acompress_documents` scores in a thread. `model` is a
    bundle, a checkpoint, a hub id or an opened `CrossEncoder`, and `model_kwargs` are the options to open it with;
    `model_dump()` holds both, and `CrossrtRerank(**dumped)` opens the model again.
    """

    model: str = Field(frozen=True)  # assigning another would not open it
    top_n: int | None = 3
    model_kwargs: dict[str, Any] = Field(default_factory=dict, frozen=True)
    _encoder: CrossEncoder = PrivateAttr()

    def __init__(
        self,
        model: str | PathLike[str] | CrossEncoder,
        top_n: int | None = 3,
        model_kwargs: dict[str, Any] | None = None,
    ) -> None:
        path, options = described(model, model_kwargs)
        super().__init__(model=path, top_n=top_n, model_kwargs=options)
        self._encoder = opened(model, model_kwargs)

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Return copies of the best documents. Several threads may call this at once."""
        texts = [document.page_content for document in documents]
        return [
            documents[found["corpus_id"]].model_copy(
                update={"metadata": {**documents[found["corpus_id"]].metadata, "relevance_score": found["score"]}}
            )
            for found in self._encoder.rank(query, texts, top_k=self.top_n)
        ]
