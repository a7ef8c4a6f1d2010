"""Reranking on many machines with Ray. It needs `crossrt[ray]`. Ray is imported only when a job starts."""

from .job import rerank as rerank
from .summary import Failure as Failure
from .summary import Summary as Summary

__all__ = ["Failure", "Summary", "rerank"]
