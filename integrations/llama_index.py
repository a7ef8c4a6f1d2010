"""LlamaIndex: `CrossrtRerank` is a node postprocessor. Needs llama-index-core."""

from os import PathLike
from typing import Any

from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle

from ..engine.cross_encoder import CrossEncoder
from .model import described, opened

dispatcher = get_dispatcher(__name__)


class CrossrtRerank(BaseNodePostprocessor):
    """Keeps the `top_n` nodes that are most relevant to the query, best first, as copies with the new score.

    A node's content for embedding, with its metadata, is scored, as in LlamaIndex's other rerankers.
    `apostprocess_nodes` scores in a thread. `model` is a bundle, a checkpoint, a hub id or an opened `CrossEncoder`, and
    `model_kwargs` are the options to open it with; `to_dict` holds both, and `from_dict` opens the model again.
    """

    # Frozen, since assigning another model would not open it.
    model: str = Field(description="Bundle, checkpoint or hub id of the cross-encoder.", frozen=True)
    top_n: int = Field(description="Number of nodes to return.", ge=0)
    model_kwargs: dict[str, Any] = Field(description="Options of crossrt.CrossEncoder.", frozen=True)
    _encoder: CrossEncoder = PrivateAttr()

    def __init__(
        self,
        model: str | PathLike[str] | CrossEncoder,
        top_n: int = 2,
        model_kwargs: dict[str, Any] | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        path, options = described(model, model_kwargs)
        manager = callback_manager or CallbackManager()
        super().__init__(model=path, top_n=top_n, model_kwargs=options, callback_manager=manager)
        self._encoder = opened(model, model_kwargs)

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex uses in serialization."""
        return "CrossrtRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise ValueError("the query is missing: pass query_bundle= or query_str=")
        if not nodes:
            return []
        query = query_bundle.query_str
        payload = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: self.model,
            EventPayload.QUERY_STR: query,
            EventPayload.TOP_K: self.top_n,
        }
        dispatcher.event(ReRankStartEvent(query=query_bundle, nodes=nodes, top_n=self.top_n, model_name=self.model))
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            texts = [node.node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]
            best = [
                NodeWithScore(node=nodes[found["corpus_id"]].node.model_copy(deep=True), score=found["score"])
                for found in self._encoder.rank(query, texts, top_k=self.top_n)
            ]
            event.on_end(payload={EventPayload.NODES: best})
        dispatcher.event(ReRankEndEvent(nodes=best))
        return best
