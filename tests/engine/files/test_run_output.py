"""Runs are written in the format of their name, and read back the same."""

import json
from pathlib import Path

import pytest
from pyarrow import parquet

from crossrt.engine.errors import DataFileError, OptionError
from crossrt.engine.files import run_output as module
from crossrt.engine.files.run_output import run_output
from crossrt.engine.files.trec import read_qrels, read_run

SCORES = {"q1": {"a": 0.1, "c": 2.5, "b": 2.5}, "q2": {"é": -1e-7}}
RANKED = {"q1": ["c", "b", "a"], "q2": ["é"]}


def write(out: Path) -> Path:
    with run_output(out, tag="t") as add:
        for query, scores in SCORES.items():
            add(query, scores)
    return out


@pytest.mark.parametrize("name", ["run.trec", "run", "run.jsonl", "run.parquet"])
def test_scores_are_read_back_as_they_were(tmp_path: Path, name: str) -> None:
    run = read_run(write(tmp_path / name))
    assert run == SCORES
    assert {query: list(scores) for query, scores in run.items()} == RANKED


def test_each_format_has_its_columns(tmp_path: Path) -> None:
    assert write(tmp_path / "r.trec").read_text().splitlines()[0] == "q1 Q0 c 1 2.5 t"
    assert write(tmp_path / "r.tsv").read_text().splitlines() == ["q1\tc\t1", "q1\tb\t2", "q1\ta\t3", "q2\té\t1"]
    rows = [json.loads(line) for line in write(tmp_path / "r.jsonl").read_text().splitlines()]
    assert rows[0] == {"query_id": "q1", "doc_id": "c", "rank": 1, "score": 2.5}
    assert parquet.read_table(write(tmp_path / "r.parquet")).to_pylist() == rows


def test_a_table_is_written_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROW_GROUP", 2)
    with run_output(tmp_path / "r.parquet", tag="t") as add:
        for number in range(4):
            add(f"q{number}", {"a": 0.5, "b": number})
    assert parquet.ParquetFile(tmp_path / "r.parquet").num_row_groups == 4
    assert read_run(tmp_path / "r.parquet") == {f"q{number}": {"a": 0.5, "b": number} for number in range(4)}


def test_the_case_of_a_name_does_not_matter_and_that_of_a_compressed_file_is_refused(tmp_path: Path) -> None:
    with run_output(tmp_path / "run.TSV", tag="t") as add:
        add("q", {"a": 1.0})
    assert (tmp_path / "run.TSV").read_text() == "q\ta\t1\n"
    for name in ("run.trec.gz", "run.tsv.ZST"):
        with (
            pytest.raises(
                OptionError, match=rf"{name} would not be compressed: give .*/{Path(name).stem} and compress"
            ),
            run_output(tmp_path / name, tag="t"),
        ):
            pass
        assert not (tmp_path / name).exists()


@pytest.mark.parametrize("tag", ["", " ", "two words", "line\nend"])
def test_a_tag_that_is_not_one_word_is_refused(tmp_path: Path, tag: str) -> None:
    with pytest.raises(OptionError, match="give one word"), run_output(tmp_path / "run", tag=tag):
        pass
    assert list(tmp_path.iterdir()) == []


def test_ms_marcos_ranks_are_the_order(tmp_path: Path) -> None:
    run = read_run(write(tmp_path / "r.tsv"))
    assert run == {"q1": {"c": -1, "b": -2, "a": -3}, "q2": {"é": -1}}


def test_nothing_is_published_when_a_query_fails(tmp_path: Path) -> None:
    for name in ("r.parquet", "r.jsonl"):
        with pytest.raises(ZeroDivisionError), run_output(tmp_path / name, tag="t") as add:
            add("q1", SCORES["q1"])
            _ = 1 / 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("q a b\n", "of three columns the third is the rank, and 'b' is no whole number"),
        ("q a -1\n", "of three columns"),
        ("q a 1\nq Q0 b 2 1.0 t\n", "line 2: some lines of this run have scores and others only ranks"),
        ('{"query_id": "q", "doc_id": "a"}\n', "line 1: expected"),
        ('{"query_id": "q", "doc_id": "a", "score": "1"}\n', "line 1: expected"),
        ('{"query_id": "q", "doc_id": "a", "score": NaN}\n', "orders nothing"),
        ('{"query_id": "q", "doc_id": "a", "score": 1' + "0" * 400 + "}\n", "is not a number"),
        ('{"query_id": "q r", "doc_id": "a", "score": 1}\n', "the id 'q r' is not one word"),
    ],
)
def test_lines_that_are_no_run_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "run").write_text(content)
    with pytest.raises(DataFileError, match=message):
        read_run(tmp_path / "run")


def test_beirs_qrels_are_read(tmp_path: Path) -> None:
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\r\nq1\td1\t1\r\nq1\td2\t0\r\n")
    assert read_qrels(tmp_path / "qrels.tsv") == {"q1": {"d1": 1, "d2": 0}}
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n")
    with pytest.raises(DataFileError, match="holds no judgments"):
        read_qrels(tmp_path / "qrels.tsv")
