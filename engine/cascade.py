"""`Cascade`: a small model shortens a list, and a large one ranks what is left."""

from collections.abc import Iterable, Sequence
from typing import Any

from .cross_encoder import CrossEncoder
from .errors import OptionError
from .labels import need_label
from .options import whole
from .store.passage_store import PassageStore
from .text.inputs import checked_passages
from .text.truncation import Truncation


class Cascade:
    """Ranks with two models. `first` scores all passages, and `second` scores the `keep` passages that `first` ranks highest.

    Unlike an exact ranking, a cascade guarantees nothing: a passage that the first model ranks low is lost, however high the
    second would rank it. `crossrt evaluate --first` measures what that costs on your own lists.

    The models may differ in tokenizer, labels and activation, since their scores are never compared with one another. The caller
    owns the models and closes them. Several threads may rank at once. Raises OptionError for a `keep` that is not allowed, and
    for a model with several labels and no relevant label chosen.
    """

    def __init__(self, first: CrossEncoder, second: CrossEncoder, *, keep: int) -> None:
        for name, model in (("first", first), ("second", second)):
            if not isinstance(model, CrossEncoder):
                raise OptionError(f"the {name} model is {type(model).__name__}; open it with crossrt.CrossEncoder")
            need_label(model.relevant_label, model.label_names, model.num_labels)
        self.first = first
        self.second = second
        self.keep = whole("keep", keep, minimum=1)

    @property
    def truncation(self) -> Truncation:
        """The counts of scored and truncated pairs, summed over both models. See `CrossEncoder.truncation`."""
        if self.first is self.second:
            return self.first.truncation
        return self.first.truncation + self.second.truncation

    def rank(
        self,
        query: str,
        documents: Iterable[str] | None = None,
        top_k: int | None = None,
        return_documents: bool = False,
        *,
        passage_ids: Sequence[str] | None = None,
        passages: PassageStore | None = None,
        first_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> list[dict[str, Any]]:
        """Return the best `top_k` of the `keep` passages, or all of them, with the second model's scores, best first.

        The result has the form of `CrossEncoder.rank`; `corpus_id` is an index into all documents. `options` are options of
        `CrossEncoder.rank` for the second model, `first_options` for the first. Raises what `CrossEncoder.rank` raises, and
        OptionError for a `top_k` above `keep`, since the second model scores only `keep` passages.
        """
        if top_k is not None and whole("top_k", top_k, minimum=0) > self.keep:
            raise OptionError(
                f"top_k={top_k}, and the first model keeps {self.keep} passages; raise keep, or lower top_k"
            )
        first_options = dict(first_options or {})
        if "top_k" in first_options:
            raise OptionError("first_options has top_k, which is the cascade's keep; give it there")
        if passages is not None or passage_ids is not None:
            ids = None if passage_ids is None else list(passage_ids)
            if documents is not None or return_documents:
                first_options |= {"documents": documents, "return_documents": return_documents}  # `rank` refuses these
            kept = self.first.rank(query, top_k=self.keep, passage_ids=ids, passages=passages, **first_options)
            # In the order given, which breaks ties.
            rows = sorted(each["corpus_id"] for each in kept)
            kept_ids = [ids[row] for row in rows] if ids is not None else []
            found = self.second.rank(query, top_k=top_k, passage_ids=kept_ids, passages=passages, **options)
        else:
            texts = checked_passages(documents)
            kept = self.first.rank(query, texts, top_k=self.keep, **first_options)
            rows = sorted(each["corpus_id"] for each in kept)
            found = self.second.rank(
                query, [texts[row] for row in rows], top_k=top_k, return_documents=return_documents, **options
            )
        return [{**each, "corpus_id": rows[each["corpus_id"]]} for each in found]
