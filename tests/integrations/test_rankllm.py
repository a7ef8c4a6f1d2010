"""The adapter for RankLLM, beside rank-llm; its entry points need vllm, for which an empty module stands in here."""

import copy
import importlib.util
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("rank_llm.data", reason="RankLLM is not installed: run scripts/integrations rankllm")
from rank_llm.data import Candidate, DataWriter, Query, Request

from crossrt import CrossEncoder
from crossrt.integrations.rankllm import CrossrtReranker, text_of

from .conftest import QUERY


@pytest.fixture
def requests(texts: list[str]) -> list[Request]:
    candidates = [Candidate(f"d{place}", -float(place), {"contents": text}) for place, text in enumerate(texts)]
    return [Request(Query(query, number), list(candidates)) for number, query in enumerate((QUERY, "a compiler"))]


def test_each_request_is_ranked_by_the_models_scores(
    demo_model: CrossEncoder, requests: list[Request], texts: list[str]
) -> None:
    before = copy.deepcopy(requests)
    results = CrossrtReranker(demo_model).rerank_batch(requests)
    assert requests == before
    for request, result in zip(requests, results, strict=True):
        ranked = demo_model.rank(request.query.text, texts)
        assert (result.query, result.invocations_history) == (request.query, [])
        assert [each.docid for each in result.candidates] == [f"d{each['corpus_id']}" for each in ranked]
        assert [each.score for each in result.candidates] == pytest.approx([r["score"] for r in ranked], abs=1e-4)


def test_no_requests_and_no_candidates_give_none(demo_model: CrossEncoder) -> None:
    reranker = CrossrtReranker(demo_model)
    assert reranker.rerank_batch([]) == []
    assert reranker.rerank_batch([Request(Query(QUERY, 1))])[0].candidates == []


@pytest.mark.parametrize(
    "options", [{"rank_end": 5}, {"top_k_retrieve": 5}, {"rank_end": 5, "shuffle_candidates": True}]
)
def test_candidates_outside_of_the_ranks_stay(
    demo_model: CrossEncoder, requests: list[Request], options: dict[str, Any]
) -> None:
    result = CrossrtReranker(demo_model).rerank_batch(requests[:1], rank_start=2, **options)[0]
    given = requests[0].candidates
    assert (result.candidates[:2], result.candidates[5:]) == (given[:2], given[5:])
    within = result.candidates[2:5]
    assert {each.docid for each in within} == {each.docid for each in given[2:5]}
    assert [each.score for each in within] == sorted((each.score for each in within), reverse=True)


def test_the_text_is_found_in_the_fields_that_rankllm_knows() -> None:
    assert text_of({"title": "Chess", "text": "a game", "contents": "other"}) == "Chess a game"
    assert text_of({"title": "", "passage": "a game"}) == "a game"
    with pytest.raises(KeyError, match="a candidate has the fields name; its text is expected in one of text, segment"):
        text_of({"name": "chess"})


def test_a_pickle_opens_the_bundle_again(demo_bundle: Path, requests: list[Request]) -> None:
    reranker = CrossrtReranker(demo_bundle, max_length=20)
    assert pickle.loads(pickle.dumps(reranker)).rerank_batch(requests) == reranker.rerank_batch(requests)


def test_rankllms_entry_and_writer_take_it(
    demo_bundle: Path, requests: list[Request], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if importlib.util.find_spec("vllm") is None:
        vllm, outputs = ModuleType("vllm"), ModuleType("vllm.outputs")
        vllm.RequestOutput = outputs.RequestOutput = object  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "vllm", vllm)
        monkeypatch.setitem(sys.modules, "vllm.outputs", outputs)
    from rank_llm.rerank.reranker import Reranker

    ours = CrossrtReranker(demo_bundle)
    theirs = Reranker(ours)
    results = theirs.rerank_batch(requests)
    assert results == ours.rerank_batch(requests)
    assert theirs.rerank(requests[1]) == results[1]
    monkeypatch.chdir(tmp_path)
    file = theirs.write_rerank_results("bm25", results, dataset_name="demo")
    assert Path(file).name == f"crossrt_{demo_bundle.name}_fp32_100_demo_vllm.txt"
    DataWriter(results).write_in_trec_eval_format("run.trec")
    assert Path(file).read_text() == Path("run.trec").read_text()


def test_the_example_prints_what_the_page_says(run_example: Callable[[str], None]) -> None:
    run_example("RankLLM")
