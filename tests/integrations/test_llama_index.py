"""The adapter for LlamaIndex, beside llama-index-core."""

import asyncio
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llama_index.core", reason="LlamaIndex is not installed: run scripts/integrations llama_index")
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from crossrt import CrossEncoder
from crossrt.integrations.llama_index import CrossrtRerank

from .conftest import QUERY


@pytest.fixture
def nodes(texts: list[str]) -> list[NodeWithScore]:
    return [
        NodeWithScore(node=TextNode(text=text, id_=str(place), metadata={"source": "the demo"}), score=-float(place))
        for place, text in enumerate(texts)
    ]


def test_the_best_nodes_are_copies_with_their_score(
    demo_model: CrossEncoder, nodes: list[NodeWithScore], texts: list[str]
) -> None:
    before = [node.model_copy(deep=True) for node in nodes]
    reranker = CrossrtRerank(model=demo_model, top_n=4)
    assert isinstance(reranker, BaseNodePostprocessor)
    found = reranker.postprocess_nodes(nodes, query_str=QUERY)
    ranked = demo_model.rank(QUERY, ["source: the demo\n\n" + text for text in texts], top_k=4)
    assert [(node.node_id, node.score) for node in found] == [(str(r["corpus_id"]), r["score"]) for r in ranked]
    found[0].node.metadata["source"] = "changed"
    assert nodes == before
    again = asyncio.run(reranker.apostprocess_nodes(nodes, QueryBundle(QUERY)))
    assert [(node.node_id, node.score) for node in again] == [(node.node_id, node.score) for node in found]


def test_no_nodes_give_none_and_no_query_is_an_error(demo_model: CrossEncoder, nodes: list[NodeWithScore]) -> None:
    reranker = CrossrtRerank(model=demo_model)
    assert reranker.postprocess_nodes([], query_str=QUERY) == []
    assert len(reranker.postprocess_nodes(nodes, query_str=QUERY)) == 2
    with pytest.raises(ValueError, match="the query is missing"):
        reranker.postprocess_nodes(nodes)


def test_an_option_that_there_is_not_is_refused(demo_model: CrossEncoder) -> None:
    for options in ({"top_k": 5}, {"precision": "int8"}, {"keep_retrieval_score": True}):
        with pytest.raises(TypeError, match=next(iter(options))):
            CrossrtRerank(model=demo_model, **options)


def test_another_model_cannot_be_assigned(demo_model: CrossEncoder) -> None:
    reranker = CrossrtRerank(model=demo_model)
    for name, value in {"model": "another", "model_kwargs": {"precision": "int8"}}.items():
        with pytest.raises(ValueError, match="frozen"):
            setattr(reranker, name, value)


def test_what_is_serialized_opens_the_same_model(demo_bundle: Path, nodes: list[NodeWithScore]) -> None:
    with CrossEncoder(demo_bundle, max_length=20) as model:
        reranker = CrossrtRerank(model=model, top_n=3)
        assert reranker.to_dict()["model"] == str(demo_bundle)
        assert reranker.to_dict()["class_name"] == "CrossrtRerank"
        expected = reranker.postprocess_nodes(nodes, query_str=QUERY)
        copies: list[Any] = [
            CrossrtRerank.from_dict(reranker.to_dict()),
            CrossrtRerank.from_json(reranker.to_json()),
            pickle.loads(pickle.dumps(reranker)),
        ]
        for other in copies:
            assert other.postprocess_nodes(nodes, query_str=QUERY) == expected


def test_the_events_of_a_reranking_are_sent(demo_model: CrossEncoder, nodes: list[NodeWithScore]) -> None:
    events = []

    class Handler(BaseEventHandler):
        def handle(self, event: Any, **others: Any) -> None:
            events.append(event)

    handler = Handler()
    get_dispatcher().add_event_handler(handler)
    debug = LlamaDebugHandler(print_trace_on_end=False)
    reranker = CrossrtRerank(model=demo_model, top_n=1, callback_manager=CallbackManager([debug]))
    found = reranker.postprocess_nodes(nodes, query_str=QUERY)
    get_dispatcher().event_handlers.remove(handler)
    assert [event.class_name() for event in events] == ["ReRankStartEvent", "ReRankEndEvent"]
    assert (events[0].top_n, events[0].model_name, events[1].nodes) == (1, reranker.model, found)
    assert len(debug.get_event_pairs(CBEventType.RERANKING)) == 1


OWN = """
import sys
from crossrt import CrossEncoder, compatibility
if sys.argv[2] == "patched":
    compatibility.patch()
from llama_index.core.postprocessor import SentenceTransformerRerank
from llama_index.core.schema import NodeWithScore, TextNode
nodes = [NodeWithScore(node=TextNode(text=text)) for text in ("berlin is a city", "the river is long", "people live in paris")]
reranker = SentenceTransformerRerank(model=sys.argv[1], device="cpu", top_n=2)
assert isinstance(reranker._model, CrossEncoder) == (sys.argv[2] == "patched")
for node in reranker.postprocess_nodes(nodes, query_str="where is the river"):
    print(f"{node.score:.3f} {node.text}")
"""


def test_llama_indexs_own_reranker_gets_the_same_scores_from_crossrt(
    make_checkpoint: Callable[..., Path], make_bundle: Callable[..., Path]
) -> None:
    pytest.importorskip("sentence_transformers")
    checkpoint = make_checkpoint(max_position_embeddings=512)  # its max_length is 512
    printed = [
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", OWN, str(path), which], capture_output=True, text=True, check=True
        ).stdout
        for path, which in ((checkpoint, "plain"), (make_bundle(checkpoint), "patched"))
    ]
    assert printed[0].count("\n") == 2
    assert printed[1] == printed[0]


def test_the_example_prints_what_the_page_says(run_example: Callable[[str], None]) -> None:
    run_example("LlamaIndex")
