"""Infinity's dialect: like `documents`, but the answer has documents as plain strings."""

from .documents import Document, Rerank


class InfinityRerank(Rerank):
    """Documents to rank for a query, in Infinity's dialect. Results hold the text of a document, not an object."""

    def _shown(self, document: Document) -> str:
        return self._text(0, document)
