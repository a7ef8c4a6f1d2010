"""txtai: `CrossrtSimilarity` is a similarity pipeline, for txtai's `Reranker` and its applications. Needs txtai."""

from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np
from txtai.pipeline import Pipeline

from ..engine.cross_encoder import CrossEncoder
from ..engine.errors import OptionError
from .model import opened, relevance


class CrossrtSimilarity(Pipeline):
    """Scores texts by relevance to a query, as txtai's `Similarity(path, crossencode=True)` does.

    `path` is a bundle, a checkpoint, a hub id or an opened `CrossEncoder`; further keywords are the options to open it with. A
    pickle holds the bundle's path. In a configuration file the class is `crossrt.integrations.txtai.CrossrtSimilarity`.
    """

    def __init__(self, path: str | PathLike[str] | CrossEncoder, **options: Any) -> None:
        self.model = opened(path, options)

    def __call__(
        self,
        query: str | Sequence[str],
        texts: Sequence[str],
        multilabel: bool | None = True,
        labels: Sequence[str | int] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return (index into `texts`, score) for every text, best first. For several queries return a list of such lists.

        With `multilabel=True` a score is the sigmoid of the logit, with False the softmax over the texts, with None the logit.
        Raises OptionError for `labels`: the model's label is chosen when it is opened, by `relevant_label`.
        """
        if labels is not None:
            raise OptionError(f"labels={labels!r}: open the model with relevant_label= to choose the label to score by")
        queries = [query] if isinstance(query, str) else list(query)
        pairs = [(each, text) for each in queries for text in texts]
        logits = np.array(relevance(self.model, pairs, "identity")).reshape(len(queries), len(texts))
        scores = logits  # float64, as in txtai: in float32 many large logits have the same sigmoid
        if multilabel is not None:
            scores = np.exp(
                -np.logaddexp(0, -logits) if multilabel else logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
            )
        orders = np.argsort(-logits, axis=1, kind="stable").tolist()
        ranked = [[(place, float(row[place])) for place in order] for row, order in zip(scores, orders, strict=True)]
        return ranked[0] if isinstance(query, str) else ranked
