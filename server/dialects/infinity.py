"""Infinity's dialect: that of `documents`, with documents in the answer as bare strings."""

from .documents import Document, Rerank


class InfinityRerank(Rerank):
    """Documents to rank for a query, as Infinity takes them. Results hold the text of a document, not an object."""

    def _shown(self, document: Document) -> str:
        return self._text(0, document)
