"""PyTerrier: `CrossrtReranker` is a transformer for results with texts. Needs pyterrier."""

from os import PathLike
from typing import Any

import pandas as pd
import pyterrier as pt

from ..engine.cross_encoder import CrossEncoder
from .model import opened, relevance


class CrossrtReranker(pt.Transformer):
    """Returns a copy of a results frame with the cross-encoder's columns `score` and `rank`.

    `text_field` names the column with the passages' texts. All queries of a frame are scored together. As with any transformer,
    `reranker % 10` keeps the best ten of each query. `model` is a bundle, a checkpoint, a hub id or an opened `CrossEncoder`, and
    `model_kwargs` are the options to open it with. A pickle holds the bundle's path.
    """

    def __init__(
        self,
        model: str | PathLike[str] | CrossEncoder,
        *,
        text_field: str = "text",
        model_kwargs: dict[str, Any] | None = None,
    ) -> None:
        self.model = opened(model, model_kwargs)
        self.text_field = text_field

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Rerank a frame with the columns `qid`, `query`, `docno` and `text_field`, which may be empty. Return a copy."""
        pt.validate.result_frame(inp, extra_columns=["query", self.text_field], context=self)
        pairs = list(zip(inp["query"], inp[self.text_field], strict=True))
        scored = inp.assign(score=pd.Series(relevance(self.model, pairs), index=inp.index, dtype=float))
        return pt.model.add_ranks(scored)

    def __repr__(self) -> str:
        return f"CrossrtReranker({str(self.model.bundle.path)!r})"
