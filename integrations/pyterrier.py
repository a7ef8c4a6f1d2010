"""PyTerrier: `CrossrtReranker` is a transformer of results with texts. Needs pyterrier."""

from os import PathLike
from typing import Any

import pandas as pd
import pyterrier as pt

from ..engine.cross_encoder import CrossEncoder
from .model import opened, relevance


class CrossrtReranker(pt.Transformer):
    """Replaces the columns `score` and `rank` of results by the cross-encoder's; the frame that is given stays as it is.

    `text_field` names the column with the passages' texts. All queries of a frame are scored together. The best ten of each are
    `reranker % 10`, as with any transformer. `model` is a bundle, a checkpoint, a hub id or an opened `CrossEncoder`, and
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
        """Return a copy of a frame with the columns `qid`, `query`, `docno` and `text_field`, which may have no rows."""
        pt.validate.result_frame(inp, extra_columns=["query", self.text_field], context=self)
        pairs = list(zip(inp["query"], inp[self.text_field], strict=True))
        scored = inp.assign(score=pd.Series(relevance(self.model, pairs), index=inp.index, dtype=float))
        return pt.model.add_ranks(scored)

    def __repr__(self) -> str:
        return f"CrossrtReranker({str(self.model.bundle.path)!r})"
