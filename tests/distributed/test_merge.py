"""Parts become the run that one process writes: lists joined, ties and the best K as in `rank`, failures in a file."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from pyarrow import parquet

from crossrt.distributed.folder import Folder
from crossrt.distributed.merge import merged
from crossrt.distributed.part import Part, all_failed
from crossrt.distributed.rows import Block, Row
from crossrt.distributed.summary import Failure
from crossrt.engine.errors import DataFileError
from crossrt.engine.text.truncation import Truncation

FAILED = Failure(query_id="q1", doc_id="x", error="it is missing")


def part(*scores: tuple[str, Mapping[str, float]], failures: tuple[Failure, ...] = ()) -> Part:
    cut = Truncation(pairs=2, cut=1, tokens=7)
    return Part(scores=scores, bundle="tiny@12ab", backend="native", truncation=cut, failures=failures)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(str(tmp_path / "parts"))
    folder.write("parts/one", part(("q2", {"a": 0.5, "b": 2.0}), ("q1", {"d": 1.0})).to_parquet())
    folder.write("parts/two", part(("q1", {"c": 1.0, "e": 3.0}), ("q3", {"a": -1.0})).to_parquet())
    return folder


def test_a_part_has_the_five_columns_and_survives_parquet(tmp_path: Path) -> None:
    before = part(("q", {"b": 0.1, "a": 7.0, "c": 0.1}), ("r", {"b": -3e-20}), failures=(FAILED,))
    (tmp_path / "part").write_bytes(before.to_parquet())
    assert Part.from_parquet((tmp_path / "part").read_bytes()) == before
    table = parquet.read_table(tmp_path / "part").to_pylist()
    assert table[0] == {"qid": "q", "docno": "b", "rank": 3, "score": 0.1, "bundle": "tiny@12ab"}
    assert [row["rank"] for row in table] == [3, 1, 2, 1]


def test_parts_become_one_run_in_their_order(folder: Folder, tmp_path: Path) -> None:
    found = merged(folder, ["one", "two"], tmp_path / "run", tag="t", top_k=None, skip=False)
    assert (tmp_path / "run").read_text().splitlines() == [
        "q2 Q0 b 1 2.0 t",
        "q2 Q0 a 2 0.5 t",
        "q1 Q0 e 1 3.0 t",
        "q1 Q0 d 2 1.0 t",
        "q1 Q0 c 3 1.0 t",
        "q3 Q0 a 1 -1.0 t",
    ]
    assert (found.written, found.failures, found.truncation.tokens, found.backends) == (6, 0, 14, {"native"})


def test_of_equal_scores_the_best_k_are_the_first_of_the_run(folder: Folder, tmp_path: Path) -> None:
    merged(folder, ["one", "two"], tmp_path / "run", tag="t", top_k=2, skip=False)
    assert "q1 Q0 d 2 1.0 t\n" in (tmp_path / "run").read_text()
    assert "q1 Q0 c" not in (tmp_path / "run").read_text()


def test_failures_go_into_a_file_or_end_the_merge(folder: Folder, tmp_path: Path) -> None:
    failed = all_failed(Block((Row("q4", "text", ("a", "b")),)), bundle="tiny@12ab", error="the process ended")
    folder.write("parts/two", part(("q1", {"c": 1.0}), failures=(FAILED,)).to_parquet())
    folder.write("parts/three", failed.to_parquet())
    names, out = ["one", "two", "three"], tmp_path / "run"
    found = merged(folder, names, out, tag="t", top_k=None, skip=True)
    errors = tmp_path / "run.errors.jsonl"
    assert json.loads(errors.read_text().splitlines()[0]) == {"query_id": "q1", "doc_id": "x", "error": "it is missing"}
    assert (found.failures, len(errors.read_text().splitlines())) == (3, 3)
    assert "q4" not in out.read_text()
    before = out.read_bytes()
    with pytest.raises(DataFileError, match=r"3 passage\(s\) that were set aside, such as x of query q1 "):
        merged(folder, names, out, tag="other", top_k=None, skip=False)
    assert out.read_bytes() == before
    merged(folder, ["one"], out, tag="t", top_k=None, skip=True)
    assert not errors.exists()


def test_a_damaged_part_is_named(folder: Folder, tmp_path: Path) -> None:
    folder.write("parts/two", folder.read("parts/two")[:-9])
    with pytest.raises(DataFileError, match="parts/two cannot be read"):
        merged(folder, ["one", "two"], tmp_path / "run", tag="t", top_k=None, skip=False)
    assert not (tmp_path / "run").exists()
