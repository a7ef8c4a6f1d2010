"""Haystack: `CrossrtRanker` is a ranker component. Needs haystack-ai."""

import asyncio
from dataclasses import replace
from functools import partial
from os import PathLike
from typing import Any

from haystack import Document, component, default_from_dict, default_to_dict

from ..engine.cross_encoder import CrossEncoder
from .model import described, opened


@component
class CrossrtRanker:
    """Returns the `top_k` documents that are most relevant to a query, best first, as copies with the new score.

    Of documents with the same id, the one with the highest score is kept, as in Haystack's other rankers. The values of
    `meta_fields_to_embed` are put before the content. `model` is a bundle, a checkpoint, a hub id or an opened `CrossEncoder`,
    and `model_kwargs` are the options to open it with. `warm_up` or the first `run` opens it.
    """

    def __init__(
        self,
        model: str | PathLike[str] | CrossEncoder,
        top_k: int = 10,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
        model_kwargs: dict[str, Any] | None = None,
    ) -> None:
        self.model, self.model_kwargs = described(model, model_kwargs)
        self.top_k = _checked(top_k)
        self.meta_fields_to_embed = meta_fields_to_embed or []
        self.embedding_separator = embedding_separator
        self._open = partial(opened, model, model_kwargs)
        self._encoder: Any = None

    def warm_up(self) -> None:
        """Open the model, unless it is open."""
        if self._encoder is None:
            self._encoder = self._open()

    @component.output_types(documents=list[Document])
    def run(self, query: str, documents: list[Document], top_k: int | None = None) -> dict[str, list[Document]]:
        """Return `{"documents": [...]}`. Raises ValueError for a `top_k` below 1."""
        top_k = self.top_k if top_k is None else _checked(top_k)
        best_first = sorted(documents, key=lambda each: float("inf") if each.score is None else -each.score)
        unique = {document.id: document for document in reversed(best_first)}  # the best one replaces the others
        candidates = [unique.pop(document.id) for document in documents if document.id in unique]
        self.warm_up()
        ranked = self._encoder.rank(query, [self._text(document) for document in candidates], top_k=top_k)
        return {"documents": [replace(candidates[found["corpus_id"]], score=found["score"]) for found in ranked]}

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, documents: list[Document], top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """Run `run` in a thread and return its result."""
        return await asyncio.to_thread(self.run, query, documents, top_k)

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary from which `from_dict` makes the same ranker. The model is stored as its path."""
        names = ("model", "top_k", "meta_fields_to_embed", "embedding_separator", "model_kwargs")
        return default_to_dict(self, **{name: getattr(self, name) for name in names})

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "CrossrtRanker":
        """Return the ranker that `to_dict` described."""
        return default_from_dict(cls, data)

    def _text(self, document: Document) -> str:
        fields = [str(document.meta[name]) for name in self.meta_fields_to_embed if document.meta.get(name) is not None]
        return self.embedding_separator.join([*fields, document.content or ""])


def _checked(top_k: int) -> int:
    if top_k < 1:
        raise ValueError(f"top_k={top_k}: give at least 1")
    return top_k
