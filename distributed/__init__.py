"""Reranking on many machines with Ray. Nothing of Ray is imported before a job is started; it needs `crossrt[ray]`."""

from .job import rerank as rerank
from .summary import Failure as Failure
from .summary import Summary as Summary

__all__ = ["Failure", "Summary", "rerank"]
