"""The adapter for txtai, beside the package."""

import math
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("txtai", reason="txtai is not installed: run scripts/integrations txtai")
from txtai import Application, Embeddings
from txtai.pipeline import Reranker, Similarity

from crossrt import CrossEncoder
from crossrt.engine.errors import OptionError
from crossrt.integrations.txtai import CrossrtSimilarity

from .conftest import QUERY, REPOSITORY

QUERIES = [QUERY, "a compiler"]


@pytest.mark.parametrize("multilabel", [True, False, None])
def test_scores_are_those_of_txtais_cross_encoder(demo_bundle: Path, texts: list[str], multilabel: bool | None) -> None:
    pytest.importorskip("torch")
    texts = [" ".join(text.split()[:40]) for text in texts]  # txtai does not truncate to the model's 160 positions
    theirs = Similarity(str(REPOSITORY / "demo/checkpoint"), gpu=False, crossencode=True)
    ours = CrossrtSimilarity(demo_bundle)
    for query in (QUERY, QUERIES):
        expected, found = np.array(theirs(query, texts, multilabel)), np.array(ours(query, texts, multilabel))
        np.testing.assert_array_equal(found[..., 0], expected[..., 0])
        np.testing.assert_allclose(found[..., 1], expected[..., 1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("multilabel", [True, False, None])
def test_no_texts_and_no_queries_give_none(demo_model: CrossEncoder, multilabel: bool | None) -> None:
    similarity = CrossrtSimilarity(demo_model)
    assert similarity(QUERY, [], multilabel) == []
    assert similarity(QUERIES, [], multilabel) == [[], []]
    assert similarity([], ["chess"], multilabel) == []


def test_the_rows_are_pairs_of_python_numbers(demo_model: CrossEncoder, texts: list[str]) -> None:
    found = CrossrtSimilarity(demo_model)(QUERY, texts, multilabel=None)
    ranked = demo_model.rank(QUERY, texts)
    assert [place for place, _ in found] == [each["corpus_id"] for each in ranked]
    assert [score for _, score in found] == pytest.approx([each["score"] for each in ranked], abs=1e-4)
    assert {(type(place), type(score)) for place, score in found} == {(int, float)}


def test_labels_of_a_call_are_refused(demo_model: CrossEncoder) -> None:
    with pytest.raises(OptionError, match="relevant_label"):
        CrossrtSimilarity(demo_model)(QUERY, ["chess"], labels=["entailment"])


def test_large_logits_keep_their_order(demo_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    similarity = CrossrtSimilarity(demo_bundle)
    logits = [20.0, -90.0, 30.0, 25.0]  # in float32 the sigmoids of three of them are 1
    monkeypatch.setattr(similarity.model, "logits", lambda pairs: np.array(logits, np.float32).reshape(-1, 1))
    for multilabel in (True, False, None):
        found = similarity(QUERY, ["a", "b", "c", "d"], multilabel)
        assert [place for place, _ in found] == [2, 3, 0, 1]
        assert len({score for _, score in found}) == 4
    assert dict(similarity(QUERY, ["a", "b", "c", "d"]))[0] == pytest.approx(1 / (1 + math.exp(-20)), abs=1e-15)


def test_txtais_reranker_takes_it_for_several_queries(demo_model: CrossEncoder, texts: list[str]) -> None:
    embeddings = Embeddings(keyword=True, content=True)
    embeddings.index(texts)
    found = Reranker(embeddings, CrossrtSimilarity(demo_model))(["chess", "program"], limit=2)
    assert [len(rows) for rows in found] == [2, 2]
    for query, rows in zip(["chess", "program"], found, strict=True):
        logits = demo_model.predict([(query, row["text"]) for row in rows])
        assert [row["score"] for row in rows] == pytest.approx((1 / (1 + np.exp(-logits))).tolist(), abs=1e-4)


def test_a_configuration_opens_it_and_a_pickle_opens_it_again(demo_bundle: Path, texts: list[str]) -> None:
    name = "crossrt.integrations.txtai.CrossrtSimilarity"
    application = Application(f"{name}:\n  path: {demo_bundle}\n  max_length: 20\n")
    similarity = application.pipelines[name]
    assert similarity.model.max_length == 20
    assert pickle.loads(pickle.dumps(similarity))(QUERY, texts) == similarity(QUERY, texts)


def test_the_example_prints_what_the_page_says(run_example: Callable[[str], None]) -> None:
    run_example("txtai")
