"""rerankers: `CrossrtRanker` is a ranker, by itself or as `Reranker(path, model_type="CrossrtRanker")`. Needs rerankers."""

import copy
from collections.abc import Sequence
from os import PathLike
from typing import Any

from rerankers.documents import Document
from rerankers.models import AVAILABLE_RANKERS
from rerankers.models.ranker import BaseRanker
from rerankers.results import RankedResults, Result
from rerankers.utils import prep_docs

from ..engine.cross_encoder import CrossEncoder
from ..engine.errors import InputError
from .model import opened, relevance


class CrossrtRanker(BaseRanker):
    """Ranks documents for a query. The method `top_k` of the results returns the best of them.

    `model_name_or_path` is a bundle, a checkpoint, a hub id or an opened `CrossEncoder`; further keywords are the options to open
    it with. `rank_async` scores in a thread. A pickle holds the bundle's path.
    """

    ranking_type = "pointwise"

    def __init__(
        self, model_name_or_path: str | PathLike[str] | CrossEncoder, verbose: int = 1, **options: Any
    ) -> None:
        self.model = opened(model_name_or_path, options)
        self.verbose = verbose

    def score(self, query: str, doc: str) -> float:
        """Return the score of one document."""
        return relevance(self.model, [(query, doc)])[0]

    def rank(
        self,
        query: str,
        docs: str | Document | Sequence[str] | Sequence[Document],
        doc_ids: Sequence[str] | Sequence[int] | None = None,
        metadata: Sequence[dict[str, Any]] | None = None,
    ) -> RankedResults:
        """Return all documents, as copies with score and rank, best first.

        Raises InputError if `doc_ids` or `metadata` has another length than the documents.
        """
        # prep_docs fails for an empty list, and writes doc_ids into the documents it gets, so they are copied.
        given = copy.deepcopy([docs] if isinstance(docs, (str, Document)) else list(docs))
        for name, values in {"doc_ids": doc_ids, "metadata": metadata}.items():
            if values is not None and len(values) != len(given):
                raise InputError(f"{name} has {len(values)} entries for {len(given)} documents; give one for each")
        documents = prep_docs(given, doc_ids) if given else []
        for document, own in zip(documents, metadata or [], strict=False):  # prep_docs fails for metadata of Documents
            document.metadata = copy.deepcopy(own)
        ranked = self.model.rank(query, [document.text for document in documents])
        results = [
            Result(document=documents[found["corpus_id"]], score=found["score"], rank=place)
            for place, found in enumerate(ranked, start=1)
        ]
        return RankedResults(results=results, query=query, has_scores=True)


AVAILABLE_RANKERS["CrossrtRanker"] = CrossrtRanker
