"""Measures are trec_eval's, ties included."""

import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytrec_eval = pytest.importorskip("pytrec_eval")  # trec_eval's own C sources, compiled

from crossrt.engine.errors import OptionError
from crossrt.engine.files.trec import write_run
from crossrt.evaluation.measures import Measures
from crossrt.evaluation.run_file import RunFile

IDS = st.text("abc12", min_size=1, max_size=2)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(
    scores=st.dictionaries(IDS, st.sampled_from([-1.5, 0.0, 0.1, 0.2, 0.2 + 1e-12]), min_size=1, max_size=30),
    relevance=st.dictionaries(IDS, st.integers(0, 3), min_size=1, max_size=20),
)
def test_trec_eval_gives_the_same_numbers_for_the_file_with_ties(
    tmp_path: Path, scores: dict[str, float], relevance: dict[str, int]
) -> None:
    path = tmp_path / "run.trec"
    with path.open("w") as file:
        write_run(file, "q", scores, tag="t")
    ours = Measures.parse("nDCG@10 RR@10 RR AP R@5 AP(rel=2)").of(relevance, list(RunFile(path).candidates("q")))
    with path.open() as file:
        run = pytrec_eval.parse_run(file)
    wanted = {"ndcg_cut.10", "recip_rank", "map", "recall.5"}
    theirs = pytrec_eval.RelevanceEvaluator({"q": relevance}, wanted).evaluate(run)["q"]
    second = pytrec_eval.RelevanceEvaluator({"q": relevance}, {"map"}, relevance_level=2).evaluate(run)["q"]
    reciprocal = theirs["recip_rank"]
    expected = [
        theirs["ndcg_cut_10"],
        reciprocal if reciprocal >= 0.1 else 0.0,  # trec_eval -M 10
        reciprocal,
        theirs["map"],
        theirs["recall_5"],
        second["map"],
    ]
    assert ours == pytest.approx(expected, abs=1e-9)


def test_ir_measures_alone_would_break_ties_of_rr_the_other_way() -> None:
    ir_measures = pytest.importorskip("ir_measures")
    measured = ir_measures.calc_aggregate([ir_measures.RR @ 10], {"q": {"a": 1}}, {"q": {"a": 1.0, "b": 1.0}})
    assert measured[ir_measures.RR @ 10] == 1, "should this fail, Measures.of may pass scores on"
    file = io.StringIO()
    write_run(file, "q", {"a": 1.0, "b": 1.0}, tag="t")
    assert [line.split()[2] for line in file.getvalue().splitlines()] == ["b", "a"]
    assert Measures.parse("RR@10").of({"a": 1}, ["b", "a"]) == [0.5]


def test_names_are_ir_measures_own_in_the_order_asked_for() -> None:
    text = " RR@10   nDCG@10 AP R@100 RR(rel=2, cutoff=10) nDCG@10 AP(rel=2) P@1 "
    assert Measures.parse(text).names == ("RR@10", "nDCG@10", "AP", "R@100", "RR(rel=2)@10", "AP(rel=2)", "P@1")


def test_names_may_be_separated_by_commas_as_precisions_are() -> None:
    text = "RR@10,nDCG@10, AP(rel=2),RR(rel=2,cutoff=10) ,"
    assert Measures.parse(text).names == ("RR@10", "nDCG@10", "AP(rel=2)", "RR(rel=2)@10")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nDCG@10 MRR5", "'MRR5' cannot be computed .measure not found"),
        ("nDCG@ten", "'nDCG@ten' cannot be computed .problem parsing"),
        ("AP(rel=2", r"'AP\(rel=2' cannot be computed"),
        ("nDCG(no=1)@10", "cannot be computed"),
        ("P", "'P' cannot be computed .invalid param cutoff"),
        ("RR@10 nDCG@0", "'nDCG@0' cannot be computed .the cutoff is below 1"),  # trec_eval ends the process
        ("  ", "is empty; give names"),
    ],
)
def test_a_measure_that_cannot_be_computed_is_named(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Measures.parse(text)


def test_an_empty_ranking_has_found_nothing() -> None:
    assert Measures.parse("nDCG@10 RR@10 AP R@100").of({"a": 1}, []) == [0, 0, 0, 0]
