"""txtai: `CrossrtSimilarity` is a similarity pipeline, for txtai's `Reranker` and its applications. Needs txtai."""

from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np
from txtai.pipeline import Pipeline

from ..engine.activation import softmax
from ..engine.cross_encoder import CrossEncoder
from .model import opened, relevance


class CrossrtSimilarity(Pipeline):
    """Scores texts by relevance to a query, as txtai's `Similarity(path, crossencode=True)` does.

    `path` is a bundle, a checkpoint, a hub id or an opened `CrossEncoder`; further keywords are the options to open it with. A
    pickle holds the bundle's path. In a configuration file the class is `crossrt.integrations.txtai.CrossrtSimilarity`.
    """

    def __init__(self, path: str | PathLike[str] | CrossEncoder, **options: Any) -> None:
        self.model = opened(path, options)

    def __call__(
        self, query: str | Sequence[str], texts: Sequence[str], multilabel: bool | None = True, **kwargs: Any
    ) -> Any:
        """Return (index into `texts`, score) for every text, best first. For several queries return a list of such lists.

        With `multilabel=True` a score is the sigmoid of the logit, with False the softmax over the texts, with None the logit.
        """
        queries = [query] if isinstance(query, str) else list(query)
        pairs = [(each, text) for each in queries for text in texts]
        scores = relevance(self.model, pairs, "sigmoid" if multilabel else "identity")
        rows = [scores[start * len(texts) : (start + 1) * len(texts)] for start in range(len(queries))]
        if multilabel is False and pairs:
            rows = softmax(np.array(rows)).tolist()
        ranked = [sorted(enumerate(row), key=lambda item: item[1], reverse=True) for row in rows]
        return ranked[0] if isinstance(query, str) else ranked
