"""The adapter for Haystack, beside haystack-ai, and Haystack's own cross-encoder rankers on crossrt's class."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("haystack", reason="Haystack is not installed: run scripts/integrations haystack")
from haystack import Document, Pipeline
from haystack.components.joiners import DocumentJoiner

from crossrt import CrossEncoder
from crossrt.integrations.haystack import CrossrtRanker

from .conftest import QUERY

MODULE = "crossrt.integrations.haystack"


@pytest.fixture
def documents(texts: list[str]) -> list[Document]:
    return [Document(id=str(n), content=text, meta={"place": n}, score=1.0) for n, text in enumerate(texts)]


def test_the_best_documents_are_copies_with_their_score(
    demo_model: CrossEncoder, documents: list[Document], texts: list[str]
) -> None:
    before = [Document.from_dict(document.to_dict()) for document in documents]
    ranker = CrossrtRanker(demo_model, top_k=4)
    found = ranker.run(QUERY, documents)["documents"]
    ranked = demo_model.rank(QUERY, texts, top_k=4)
    assert [(document.id, document.score) for document in found] == [(str(r["corpus_id"]), r["score"]) for r in ranked]
    assert documents == before
    assert asyncio.run(ranker.run_async(QUERY, documents)) == {"documents": found}
    assert ranker.run(QUERY, documents, top_k=1)["documents"] == found[:1]


def test_no_documents_give_none_and_no_content_is_scored_as_empty(demo_model: CrossEncoder) -> None:
    ranker = CrossrtRanker(demo_model)
    assert ranker.run(QUERY, []) == {"documents": []}
    assert ranker.run(QUERY, [Document(content=None)])["documents"][0].score == demo_model.predict((QUERY, ""))
    for wrong in (lambda: CrossrtRanker(demo_model, top_k=0), lambda: ranker.run(QUERY, [], top_k=0)):
        with pytest.raises(ValueError, match="top_k=0: give at least 1"):
            wrong()


def test_of_one_id_the_document_with_the_highest_score_is_ranked(demo_model: CrossEncoder) -> None:
    documents = [Document(id="a", content=text, score=score) for text, score in (("x", -1.0), ("y", 0.0), ("z", None))]
    assert [found.content for found in CrossrtRanker(demo_model).run(QUERY, documents)["documents"]] == ["y"]


def test_of_one_id_and_score_the_first_document_is_ranked(demo_model: CrossEncoder) -> None:
    misc = pytest.importorskip("haystack.utils.misc")
    rows = [("a", "w", None), ("b", "u", 2.0), ("a", "x", None), ("b", "v", 2.0), ("c", "y", -1.0), ("c", "z", -1.0)]
    documents = [Document(id=name, content=text, score=score) for name, text, score in rows]
    found = CrossrtRanker(demo_model).run(QUERY, documents)["documents"]
    assert {document.content for document in found} == {"w", "u", "y"}
    assert {document.content for document in misc._deduplicate_documents(documents)} == {"w", "u", "y"}


def test_a_token_opens_the_model_and_is_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[dict[str, Any]] = []

    class Recorded(CrossEncoder):
        def __init__(self, model: str, **options: Any) -> None:
            opened.append({"model": model, **options})

    monkeypatch.setattr("crossrt.integrations.model.CrossEncoder", Recorded)
    ranker = CrossrtRanker("user/private", model_kwargs={"token": "hf_secret", "precision": "int8"})
    assert ranker.to_dict()["init_parameters"]["model_kwargs"] == {"precision": "int8"}
    ranker.warm_up()
    assert opened == [{"model": "user/private", "token": "hf_secret", "precision": "int8"}]


def test_fields_of_the_metadata_are_scored_too(demo_model: CrossEncoder) -> None:
    ranker = CrossrtRanker(demo_model, meta_fields_to_embed=["title", "absent"], embedding_separator=" | ")
    found = ranker.run(QUERY, [Document(content="a game", meta={"title": "Chess"})])["documents"]
    assert found[0].score == demo_model.predict((QUERY, "Chess | a game"))


@pytest.fixture
def pipeline(demo_bundle: Path) -> Iterator[Pipeline]:
    with CrossEncoder(demo_bundle, max_length=20) as model:
        pipeline = Pipeline()
        pipeline.add_component("joiner", DocumentJoiner())
        pipeline.add_component("ranker", CrossrtRanker(model, top_k=2))
        pipeline.connect("joiner", "ranker")
        yield pipeline


def test_a_pipeline_is_stored_with_the_bundles_path(
    pipeline: Pipeline, documents: list[Document], demo_bundle: Path
) -> None:
    stored = pipeline.dumps()
    assert f"model: {demo_bundle}\n" in stored
    data = {"joiner": {"documents": documents}, "ranker": {"query": QUERY}}
    expected = pipeline.run(data)
    loaded = Pipeline.loads(stored, allowed_modules=[MODULE])
    assert loaded.get_component("ranker").model_kwargs["max_length"] == 20
    assert loaded.run(data) == expected
    assert asyncio.run(loaded.run_async(data)) == expected


OWN = """
import sys
from crossrt import CrossEncoder, compatibility
compatibility.patch()
from haystack import Document
from haystack_integrations.components.rankers.sentence_transformers import SentenceTransformersSimilarityRanker
from crossrt.integrations.haystack import CrossrtRanker
documents = [Document(content=text) for text in ("a chess program", "a compiler", "two players")]
theirs = SentenceTransformersSimilarityRanker(model=sys.argv[1], scale_score=False, trust_remote_code=True)
found = theirs.run(query="play chess", documents=documents)["documents"]
assert isinstance(theirs._cross_encoder, CrossEncoder)
assert found == CrossrtRanker(sys.argv[1]).run("play chess", documents)["documents"]
"""


def test_haystacks_own_ranker_runs_on_crossrt(demo_bundle: Path) -> None:
    pytest.importorskip("haystack_integrations.components.rankers.sentence_transformers")
    subprocess.run([sys.executable, "-c", OWN, str(demo_bundle)], check=True)


def test_the_example_prints_what_the_page_says(run_example: Callable[[str], None]) -> None:
    run_example("Haystack")
