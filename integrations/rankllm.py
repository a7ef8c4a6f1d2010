"""RankLLM: `CrossrtReranker` is a model coordinator for its `Reranker`, and also works without it. Needs rank-llm."""

import copy
import random
from os import PathLike
from typing import Any

from rank_llm.data import Request, Result

from ..engine.cross_encoder import CrossEncoder
from ..engine.errors import InputError
from .model import opened, relevance

TEXT_FIELDS = ("text", "segment", "contents", "content", "body", "passage")
"""Fields that may hold a candidate's text, in RankLLM's order."""


class CrossrtReranker:
    """Reranks the candidates of requests. All requests of a call are scored together. A pickle holds the bundle's path.

    `model` is a bundle, a checkpoint, a hub id or an opened `CrossEncoder`; further keywords are the options to open it with.
    """

    def __init__(self, model: str | PathLike[str] | CrossEncoder, **options: Any) -> None:
        self.model = opened(model, options)

    def rerank_batch(
        self,
        requests: list[Request],
        rank_start: int = 0,
        rank_end: int = 100,
        shuffle_candidates: bool = False,
        logging: bool = False,
        **kwargs: Any,
    ) -> list[Result]:
        """Return results with copies of the candidates. Those from `rank_start` to before `rank_end` are reranked.

        The others keep their places: where their scores contradict that, a constant is added to them. `top_k_retrieve` lowers
        `rank_end`. Shuffling only changes the order of equal scores. Raises InputError for a candidate without text.
        """
        end = min(rank_end, kwargs.get("top_k_retrieve") or rank_end)
        results = [Result(copy.deepcopy(each.query), copy.deepcopy(each.candidates), []) for each in requests]
        parts = [result.candidates[rank_start:end] for result in results]
        texts = [(r.query.text, text_of(each.doc)) for r, part in zip(results, parts, strict=True) for each in part]
        scores = iter(relevance(self.model, texts))
        for result, part in zip(results, parts, strict=True):
            for candidate in part:
                candidate.score = next(scores)
            if shuffle_candidates:
                random.shuffle(part)
            part.sort(key=lambda candidate: -candidate.score)
            result.candidates[rank_start:end] = part
            before, after = result.candidates[:rank_start], result.candidates[end:]
            up = max(0.0, part[0].score - before[-1].score + 1) if part and before else 0.0
            down = max(0.0, after[0].score - part[-1].score + 1) if part and after else 0.0
            for candidate in before:
                candidate.score += up
            for candidate in after:
                candidate.score -= down
        return results

    def get_name(self) -> str:
        """Return the name of the reranker in names of result files."""
        return f"crossrt_{self.model.bundle.path.name}_{self.model.precision.value}"

    def get_output_filename(self, top_k_candidates: int, dataset_name: str, shuffle_candidates: bool, **_: Any) -> str:
        """Return the beginning of the name of a result file."""
        parts = [self.get_name(), str(top_k_candidates), dataset_name, "shuffled" if shuffle_candidates else ""]
        return "_".join(part for part in parts if part)


def text_of(doc: dict[str, Any]) -> str:
    """Return the text of a candidate, preceded by its title if it has one. Raises InputError if it has no text."""
    text: Any = next((doc[name] for name in TEXT_FIELDS if name in doc), None)
    texts = [doc["title"], text] if doc.get("title") else [text]
    if not all(isinstance(each, str) for each in texts):
        raise InputError(f"a candidate's text is expected in one of {', '.join(TEXT_FIELDS)}; it is {doc}")
    return " ".join(texts)
