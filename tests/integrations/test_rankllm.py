"""The adapter for RankLLM, beside rank-llm; its entry points need vllm, for which an empty module stands in here."""

import copy
import importlib.util
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rank_llm.data", reason="RankLLM is not installed: run scripts/integrations rankllm")
from rank_llm.data import Candidate, DataWriter, Query, Request

from crossrt import CrossEncoder
from crossrt.engine.errors import InputError
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
    assert [each.docid for each in result.candidates[:2]] == [each.docid for each in given[:2]]
    assert [each.docid for each in result.candidates[5:]] == [each.docid for each in given[5:]]
    within = result.candidates[2:5]
    assert {each.docid for each in within} == {each.docid for each in given[2:5]}
    assert [each.score for each in within] == sorted((each.score for each in within), reverse=True)


def test_a_file_that_is_read_by_score_has_the_candidates_in_their_places(
    demo_model: CrossEncoder, texts: list[str], tmp_path: Path
) -> None:
    bm25 = [Candidate(f"d{n}", 30.0 - n, {"text": text}) for n, text in enumerate(texts)]  # far above all logits
    [result] = CrossrtReranker(demo_model).rerank_batch([Request(Query(QUERY, 1), bm25)], rank_start=2, rank_end=6)
    DataWriter([result]).write_in_trec_eval_format(str(tmp_path / "run"))
    rows = [line.split() for line in (tmp_path / "run").read_text().splitlines()]
    by_score = sorted(rows, key=lambda row: -float(row[4]))
    assert by_score == rows
    assert [row[2] for row in rows[:2] + rows[6:]] == ["d0", "d1", *(f"d{n}" for n in range(6, len(texts)))]
    ranked = demo_model.rank(QUERY, texts[2:6])
    assert [row[2] for row in rows[2:6]] == [f"d{each['corpus_id'] + 2}" for each in ranked]
    assert [float(row[4]) for row in rows[2:6]] == pytest.approx([each["score"] for each in ranked], abs=1e-4)
    scores = [float(row[4]) for row in rows]
    assert [scores[0] - scores[1], *np.subtract(scores[6:-1], scores[7:])] == pytest.approx([1.0] * (len(texts) - 6))
    low = [Candidate(f"d{n}", -50.0 - n, {"text": text}) for n, text in enumerate(texts)]
    [kept] = CrossrtReranker(demo_model).rerank_batch([Request(Query(QUERY, 1), low)], rank_end=6)
    assert kept.candidates[6:] == low[6:]


def test_the_text_is_found_in_the_fields_that_rankllm_knows() -> None:
    assert text_of({"title": "Chess", "text": "a game", "contents": "other"}) == "Chess a game"
    assert text_of({"title": "", "passage": "a game"}) == "a game"
    wrong: list[dict[str, Any]] = [
        {"name": "chess"},
        {"text": None},
        {"title": "Chess", "contents": None},
        {"title": float("nan"), "text": "a game"},
    ]
    for doc in wrong:
        with pytest.raises(InputError, match=r"text is expected in one of text, segment, .*; it is \{"):
            text_of(doc)


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
    assert Path(file).read_text(encoding="utf-8") == Path("run.trec").read_text(encoding="utf-8")


def test_the_example_prints_what_the_page_says(run_example: Callable[[str], None]) -> None:
    run_example("RankLLM")
