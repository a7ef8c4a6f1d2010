"""The adapter for rerankers, beside the package."""

import asyncio
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("rerankers", reason="rerankers is not installed: run scripts/integrations rerankers")
from rerankers import Document, Reranker
from rerankers.models.ranker import BaseRanker

from crossrt import CrossEncoder
from crossrt.engine.errors import InputError
from crossrt.integrations.rerankers import CrossrtRanker

from .conftest import QUERY


def test_all_documents_are_ranked_with_their_scores(demo_model: CrossEncoder, texts: list[str]) -> None:
    ranker = CrossrtRanker(demo_model)
    assert isinstance(ranker, BaseRanker)
    found = ranker.rank(QUERY, texts, doc_ids=[f"d{place}" for place in range(len(texts))])
    ranked = demo_model.rank(QUERY, texts)
    assert [(each.doc_id, each.score, each.rank) for each in found] == [
        (f"d{each['corpus_id']}", each["score"], place) for place, each in enumerate(ranked, start=1)
    ]
    assert found.has_scores
    assert [each.doc_id for each in found.top_k(3)] == [each.doc_id for each in found][:3]
    assert ranker.score(QUERY, texts[0]) == pytest.approx(found.get_score_by_docid("d0"), abs=1e-4)
    again = asyncio.run(ranker.rank_async(QUERY, texts))
    assert [each.score for each in again] == [each.score for each in found]


def test_documents_are_copied(demo_model: CrossEncoder, texts: list[str]) -> None:
    documents = [Document(text, doc_id=text[:5], metadata={"a": 1}) for text in texts]
    for given, ids in ((documents, list(range(len(texts)))), (documents[0], [7])):
        found = CrossrtRanker(demo_model).rank(QUERY, given, doc_ids=ids)
        assert sorted(each.doc_id for each in found) == ids
        found[0].document.metadata["a"] = 2
    assert [document.doc_id for document in documents] == [text[:5] for text in texts]
    assert {document.metadata["a"] for document in documents} == {1}


def test_metadata_is_that_of_its_document(demo_model: CrossEncoder, texts: list[str]) -> None:
    ranker = CrossrtRanker(demo_model)
    own = [{"place": place} for place in range(len(texts))]
    for given in (texts, [Document(text, doc_id=text[:5], metadata={"a": 1}) for text in texts]):
        found = ranker.rank(QUERY, given, metadata=own)
        assert {each.text: each.metadata["place"] for each in found} == {text: n for n, text in enumerate(texts)}
        found[0].document.metadata["place"] = -1
        assert own == [{"place": place} for place in range(len(texts))]
        for wrong in ({"doc_ids": list(range(len(texts) + 1))}, {"metadata": own[1:]}):
            with pytest.raises(InputError, match=rf"has \d+ entries for {len(texts)} documents"):
                ranker.rank(QUERY, given, **wrong)


def test_one_text_and_no_documents(demo_model: CrossEncoder) -> None:
    ranker = CrossrtRanker(demo_model)
    assert ranker.rank(QUERY, []).results_count() == 0
    assert ranker.rank(QUERY, "chess")[0].score == ranker.score(QUERY, "chess")


def test_the_packages_own_entry_opens_it(demo_bundle: Path, texts: list[str]) -> None:
    ranker = Reranker(str(demo_bundle), model_type="CrossrtRanker", verbose=0, max_length=20)
    assert isinstance(ranker, CrossrtRanker)
    assert ranker.model.max_length == 20
    copied = pickle.loads(pickle.dumps(ranker)).rank(QUERY, texts)
    assert [each.score for each in copied] == [each.score for each in ranker.rank(QUERY, texts)]


def test_the_example_prints_what_the_page_says(run_example: Callable[[str], None]) -> None:
    run_example("rerankers")
