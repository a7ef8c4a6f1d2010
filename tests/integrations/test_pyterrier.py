"""The adapter for PyTerrier, beside pyterrier, with its abstract test of transformers."""

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("pyterrier", reason="PyTerrier is not installed: run scripts/integrations pyterrier")
import pandas as pd
import pyterrier as pt
import pyterrier.testing

from crossrt import CrossEncoder
from crossrt.integrations.pyterrier import CrossrtReranker

from .conftest import QUERY

COLUMNS = ["qid", "query", "docno", "text", "score", "rank"]


@pytest.fixture
def results(texts: list[str]) -> pd.DataFrame:
    """Return results of two queries, whose rows have odd labels."""
    rows = [
        (f"q{number}", query, f"d{place}", text, -float(place), place)
        for number, query in enumerate((QUERY, "a compiler"))
        for place, text in enumerate(texts)
    ]
    return pd.DataFrame(rows, columns=COLUMNS, index=range(100, 100 + len(rows)))


def test_each_query_is_ranked_by_the_models_scores(
    demo_model: CrossEncoder, results: pd.DataFrame, texts: list[str]
) -> None:
    before = results.copy(deep=True)
    found = CrossrtReranker(demo_model)(results)
    pd.testing.assert_frame_equal(results, before)
    assert set(found.columns) == set(COLUMNS)
    for (_, query), rows in found.sort_values("rank").groupby(["qid", "query"]):
        ranked = demo_model.rank(query, texts)
        assert list(rows["docno"]) == [f"d{each['corpus_id']}" for each in ranked]
        assert list(rows["score"]) == pytest.approx([each["score"] for each in ranked], abs=1e-4)
        assert list(rows["rank"]) == list(range(len(texts)))


def test_a_cutoff_keeps_the_best_of_each_query(demo_model: CrossEncoder, results: pd.DataFrame) -> None:
    found = (CrossrtReranker(demo_model) % 2)(results)
    assert found.groupby("qid").size().to_dict() == {"q0": 2, "q1": 2}


def test_a_frame_without_rows_stays_one_and_a_missing_column_is_named(
    demo_model: CrossEncoder, results: pd.DataFrame
) -> None:
    reranker = CrossrtReranker(demo_model, text_field="body")
    found = reranker(results[:0].rename(columns={"text": "body"}))
    assert (len(found), found["score"].dtype, found["rank"].dtype) == (0, float, int)
    with pytest.raises(pt.validate.InputValidationError, match="body"):
        reranker(results)
    assert reranker([{"qid": "1", "query": QUERY, "docno": "d", "body": "chess"}])[0]["rank"] == 0


def test_a_pickle_opens_the_bundle_again(demo_bundle: Path, results: pd.DataFrame) -> None:
    reranker = CrossrtReranker(demo_bundle, model_kwargs={"max_length": 20})
    other = pickle.loads(pickle.dumps(reranker))
    assert other.model.max_length == 20
    pd.testing.assert_frame_equal(other(results), reranker(results))
    assert repr(other) == f"CrossrtReranker({str(demo_bundle)!r})"


class TestTransformer(pyterrier.testing.TransformerTestCase):
    """PyTerrier's own test: the transformer tells its columns, and can be drawn."""

    reranker: CrossrtReranker

    @classmethod
    def get_transformer(cls) -> CrossrtReranker:
        return cls.reranker

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def opened(cls, demo_model: CrossEncoder) -> Iterator[None]:
        cls.reranker = cls.transformer = CrossrtReranker(demo_model)
        with pytest.MonkeyPatch.context() as patch:  # the drawing's links come from a list on the network
            patch.setattr(pt.documentation, "objects_inv", dict)
            yield

    @classmethod
    def setUpClass(cls) -> None:
        cls.io_configs: list[object] = []

    @classmethod
    def tearDownClass(cls) -> None:
        assert [set(columns) for columns, _ in cls.io_configs] == [{"qid", "query", "docno", "text"}]


def test_the_example_prints_what_the_page_says(run_example: Callable[[str], None]) -> None:
    run_example("PyTerrier")
