"""Lists to judge on: enough of them, of other queries, and the measures that trec_eval gives."""

from pathlib import Path

import ir_measures
import numpy as np
import pytest

from crossrt.calibration import judging_set
from crossrt.calibration.calibration_set import CalibrationSet
from crossrt.calibration.judge import Judge
from crossrt.calibration.judging_set import MIN_CANDIDATES, MIN_QUERIES, JudgingSet
from crossrt.calibration.paired_difference import PairedDifference
from crossrt.engine.errors import DataFileError


def listed(queries: int, candidates: int, **fields: object) -> JudgingSet:
    return JudgingSet.of(
        {str(query): f"query {query}" for query in range(queries)},
        {str(passage): f"passage {passage}" for passage in range(candidates)},
        {str(query): [str(passage) for passage in range(candidates)] for query in range(queries)},
        source="s",
        **fields,  # type: ignore[arg-type]
    )


def test_too_few_lists_or_too_short_ones_are_an_error_that_says_how_many() -> None:
    with pytest.raises(DataFileError, match=r"19 of 19 queries have at least 50 candidates.*at least 20"):
        listed(19, 50)
    with pytest.raises(DataFileError, match="0 of 30 queries"):
        listed(30, 49)
    judging = listed(MIN_QUERIES, MIN_CANDIDATES)
    assert len(judging.pairs) == MIN_QUERIES * MIN_CANDIDATES
    assert [len(rows) for rows in judging.rows] == [MIN_CANDIDATES] * MIN_QUERIES


def test_a_large_collection_is_sampled_by_the_seed() -> None:
    one, same, other = (listed(300, 120, seed=seed) for seed in (1, 1, 2))
    assert len(one.candidates) == 50
    assert {len(ids) for ids in one.candidates.values()} == {100}
    assert one.sha256 == same.sha256 != other.sha256


def test_bare_pairs_are_pooled_with_passages_that_share_words() -> None:
    pairs = [(f"word{query} again", f"a text of word{query} number {n}") for query in range(60) for n in range(3)]
    judging = JudgingSet.pooled(pairs, source="pairs.tsv")
    assert judging.source == "pairs.tsv, pooled"
    assert len(judging.candidates) == 20
    for query, ids in judging.candidates.items():
        word = judging.queries[query].split()[0]
        texts = [judging.passages[passage] for passage in ids]
        assert len(set(texts)) == len(texts) == MIN_CANDIDATES
        assert sum(f" {word} " in text for text in texts) == 3
    left = CalibrationSet.sample(pairs, source="pairs.tsv").without_queries(judging.texts_of_queries, size=2000)
    assert not {query for query, _ in left.pairs} & judging.texts_of_queries
    assert len(left.pairs) == 120


def test_a_large_file_is_pooled_with_a_sample_of_its_passages(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [(f"word{query} again", f"a text of word{query} number {n}") for query in range(60) for n in range(10)]
    monkeypatch.setattr(judging_set, "MAX_POOL", 80)
    judging = JudgingSet.pooled(pairs, source="pairs.tsv")
    assert len(judging.passages) == 20 * 10 + 80
    assert judging.sha256 == JudgingSet.pooled(pairs, source="pairs.tsv").sha256
    for query, ids in judging.candidates.items():
        texts = {judging.passages[passage] for passage in ids}
        assert texts >= {passage for asked, passage in pairs if asked == judging.queries[query]}
        assert len(texts) == MIN_CANDIDATES


def test_pairs_that_are_too_few_or_all_alike_are_an_error() -> None:
    alike = [("q", "p")] * 500
    with pytest.raises(DataFileError, match=r"1 different queries and 1 different passages.*at least 40 queries"):
        JudgingSet.pooled(alike, source="s")
    with pytest.raises(DataFileError, match=r"2 pairs are left.*at least 100"):
        CalibrationSet.sample([("a", "b"), ("a", "c"), ("d", "e")], source="s").without_queries({"d"}, size=10)


def test_the_builtin_pairs_are_enough_to_calibrate_and_to_judge() -> None:
    builtin = CalibrationSet.builtin()
    judging = JudgingSet.pooled(builtin.pairs, source=builtin.source)
    assert len(builtin.without_queries(judging.texts_of_queries, size=2000).pairs) >= 500


def test_measures_are_those_of_trec_eval(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    qrels = {str(query): {str(p): int(rng.integers(0, 4)) for p in range(0, 60, 7)} for query in range(25)}
    judging = listed(25, 60, qrels=qrels)
    expected = rng.standard_normal(25 * 60).astype(np.float32)
    candidate = (expected + rng.standard_normal(25 * 60) * 0.3).astype(np.float32)
    report = Judge(judging=judging, expected=expected).report(candidate)
    (tmp_path / "qrels").write_text(
        "".join(f"{query} 0 {p} {grade}\n" for query, grades in qrels.items() for p, grade in grades.items())
    )
    for scores, side in ((expected, "reference"), (candidate, "candidate")):
        (tmp_path / "run").write_text(
            "".join(
                f"{query} Q0 {p} 0 {float(scores[rows.start + int(p)])!r} t\n"
                for query, rows in zip(judging.candidates, judging.rows, strict=True)
                for p in map(str, range(60))
            )
        )
        for name, change in report.changes.items():
            value = ir_measures.calc_aggregate(
                [ir_measures.parse_measure(name)],
                ir_measures.read_trec_qrels(str(tmp_path / "qrels")),
                ir_measures.read_trec_run(str(tmp_path / "run")),
            )[ir_measures.parse_measure(name)]
            assert getattr(change, side) == pytest.approx(value, abs=1e-12)


def test_the_interval_is_around_the_difference_and_narrow_for_many_queries() -> None:
    rng = np.random.default_rng(3)
    before = rng.uniform(0, 1, 400)
    change = PairedDifference.of(before, before + rng.normal(-0.02, 0.05, 400))
    assert change.low < change.difference < change.high < 0
    assert change.high - change.low == pytest.approx(2 * 1.96 * 0.05 / 20, rel=0.15)
    assert PairedDifference.of(before, before).low == PairedDifference.of(before, before).high == 0


def test_a_report_has_the_means_over_lists_and_over_pairs() -> None:
    judging = listed(20, 50)
    expected = np.tile(np.arange(50, dtype=np.float32), 20)
    candidate = expected + np.float32(0.5)
    candidate[50:100] = -expected[50:100]
    report = Judge(judging=judging, expected=expected).report(candidate)
    assert (report.queries, report.pairs) == (20, 1000)
    assert report.top10_overlap == pytest.approx(19 / 20)
    assert report.top10_overlap_low < 19 / 20 < report.top10_overlap_high <= 1
    assert report.kendall_tau == pytest.approx((19 - 1) / 20)
    assert report.mean_abs_diff == pytest.approx(np.abs(candidate - expected).mean())


def test_a_ranking_of_nan_is_the_worst_there_is() -> None:
    judging = listed(20, 50)
    expected = np.tile(np.arange(50, dtype=np.float32), 20)
    report = Judge(judging=judging, expected=expected).report(np.full_like(expected, np.nan))
    assert report.top10_overlap == 0
    assert report.kendall_tau == 0


def test_the_built_in_lists_are_enough_to_judge_by_and_always_the_same() -> None:
    built_in = JudgingSet.builtin()
    assert [len(rows) for rows in built_in.rows] == [50] * 20
    assert built_in.qrels is None
    assert JudgingSet.builtin().sha256 == built_in.sha256
