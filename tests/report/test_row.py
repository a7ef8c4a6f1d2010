"""Speeds and rankings meet in rows."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from crossrt.report.results import Results
from crossrt.report.row import names_of, rows_of, short


def test_speed_and_quality_of_one_bundle_and_precision_are_one_row(
    make_speeds: Callable[..., Any], make_evaluation: Callable[..., Any]
) -> None:
    speeds, evaluation = make_speeds(2), make_evaluation(1)
    rows = rows_of(Results(speeds=[("s", speeds)], evaluations=[("e", evaluation)]))
    assert len(rows) == 6 + 1  # and the candidates
    joined = [row for row in rows if row.speed and row.rankings[0]]
    assert [row.name for row in joined] == [f"TinyBERT-L-2-v2 {precision}" for precision in ("fp32", "bf16", "int8")]
    for row in joined:
        assert row.rankings[0].bundle_sha256 == row.speed.bundle_sha256  # type: ignore[union-attr]
        assert row.rankings[0].precision == row.speed.precision  # type: ignore[union-attr]


def test_another_bundle_of_the_same_name_is_another_row(
    make_speeds: Callable[..., Any], make_evaluation: Callable[..., Any]
) -> None:
    speeds = make_speeds(1)
    other = replace(speeds, rows=[replace(row, bundle_sha256="0" * 64) for row in speeds.rows])
    rows = rows_of(Results(speeds=[("s", other)], evaluations=[("e", make_evaluation(1))]))
    assert [(row.speed is None, row.rankings[0] is None) for row in rows] == [(False, True)] * 3 + [(True, False)] * 4


def test_a_bundle_has_one_name_whether_it_was_timed_or_not(
    make_speeds: Callable[..., Any], make_evaluation: Callable[..., Any]
) -> None:
    speeds, evaluation = make_speeds(1), make_evaluation(1)
    timed = replace(speeds, rows=[row for row in speeds.rows if row.precision == "fp32"])
    rows = rows_of(Results(speeds=[("s", timed)], evaluations=[("e", evaluation)]))
    assert [row.name for row in rows][:3] == [f"TinyBERT-L-2-v2 {precision}" for precision in ("fp32", "bf16", "int8")]
    other = replace(speeds, rows=[replace(row, bundle_sha256="0" * 64) for row in speeds.rows])
    rows = rows_of(Results(speeds=[("s", other)], evaluations=[("e", evaluation)]))
    assert len({row.name for row in rows}) == len(rows), "and another one of its name another"


def test_an_exact_ranking_is_a_row_of_its_own(
    make_speeds: Callable[..., Any], make_evaluation: Callable[..., Any]
) -> None:
    speeds, evaluation = make_speeds(1), make_evaluation(1)
    exact = replace(speeds.rows[2], method="exact top 10")
    ranking = replace(evaluation.rankings[3], label="b.int8.exact10", method="exact top 10")
    cascade = replace(evaluation.rankings[1], label="a+b.keep20", method="best 20 of a.fp32")
    speeds = replace(speeds, rows=[*speeds.rows, exact])
    evaluation = replace(evaluation, rankings=[*evaluation.rankings, ranking, cascade])
    rows = rows_of(Results(speeds=[("s", speeds)], evaluations=[("e", evaluation)]))
    joined = {row.name: row for row in rows}
    assert joined["TinyBERT-L-2-v2 int8, exact top 10"].rankings == [ranking]
    assert joined["TinyBERT-L-2-v2 int8"].rankings == [evaluation.rankings[3]]
    alone = joined["TinyBERT-L-2-v2 fp32, best 20 of a.fp32"]
    assert (alone.speed, alone.rankings) == (None, [cascade])
    assert len(joined) == len(rows) == 3 + 1 + 1 + 1


def test_candidates_of_two_collections_stay_two_rows(make_evaluation: Callable[..., Any]) -> None:
    both = [("a", make_evaluation(1)), ("b", make_evaluation(1, collection="others"))]
    rows = rows_of(Results(evaluations=both))
    assert [row.name for row in rows][3:] == ["candidates of lists/bm25.run.trec", "candidates of others"]
    assert all(row.rankings[0] and row.rankings[1] for row in rows[:3])


def test_a_name_has_as_much_as_tells_it_from_the_others(make_speeds: Callable[..., Any]) -> None:
    row = make_speeds(1).rows[0]
    assert names_of([row]) == ["TinyBERT-L-2-v2 fp32"]
    assert names_of([row, replace(row, backend="onnxruntime")]) == [
        "TinyBERT-L-2-v2 fp32, openvino",
        "TinyBERT-L-2-v2 fp32, onnxruntime",
    ]
    assert names_of([row, replace(row, threads=1)]) == [
        "TinyBERT-L-2-v2 fp32, 2 threads",
        "TinyBERT-L-2-v2 fp32, 1 threads",
    ]
    assert len(set(names_of([row, row, row]))) == 3


def test_a_short_name_has_no_owner() -> None:
    assert short("cross-encoder/ms-marco-MiniLM-L6-v2") == "MiniLM-L6-v2"
    assert short("plain") == "plain"
