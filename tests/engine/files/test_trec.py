"""Retrieval files are read strictly, and written in trec_eval's format and order."""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossrt.engine.errors import DataFileError, OptionError
from crossrt.engine.files.texts import read_texts
from crossrt.engine.files.trec import (
    ranked,
    read_candidates,
    read_collection,
    read_pairs,
    read_qrels,
    read_run,
    write_run,
)


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_texts_may_hold_tabs_and_end_in_any_newline(tmp_path: Path) -> None:
    file = written(tmp_path / "p.tsv", b"\xef\xbb\xbf1\ta\tb\r\n2\t\n\n3\tlast")
    assert read_texts(file) == {"1": "a\tb", "2": "", "3": "last"}
    assert read_texts(file, only={"3"}) == {"3": "last"}


@pytest.mark.parametrize(
    ("reader", "content", "message"),
    [
        (read_texts, "1\ta\nno tab\n", r"line 2: expected `id <tab> text`, or a JSON object .*, got 'no tab'"),
        (read_texts, "1\ta\n1\tb\n", "line 2: the id 1 comes a second time"),
        (read_texts, b"1\ta\n2\t\xff\n", "line 2: byte 3 is not valid UTF-8"),
        (read_texts, "", "is empty"),
        (read_texts, "\n\n", "is empty"),
        (
            read_run,
            "1 Q0 a 1 2.0\n",
            r"line 1: expected `query Q0 passage rank score tag`, MS MARCO's .* got '1 Q0 a 1 2\.0'",
        ),
        (read_run, "1 Q0 a 1 high tag\n", "line 1: the score 'high' is not a number"),
        (read_run, "1 Q0 a 1 2.0 t\n1 Q0 a 2 1.0 t\n", "line 2: passage a comes a second time for query 1"),
        (read_run, "1 a 1\n1 b " + "9" * 400 + "\n", "line 2: the score inf orders nothing"),
        (read_qrels, "1 0\n", "line 1: expected `query 0 passage relevance`"),
        (read_qrels, "1 0 a 1\n \t\n", "line 2: expected `query 0 passage relevance`"),
        (read_qrels, "1 0 a 1\n2 0 a 1\n1 0 a 0\n", "line 3: passage a comes a second time for query 1"),
        (read_qrels, "1 0 a yes\n", "line 1: expected `query 0 passage relevance`"),
        (read_qrels, "1 0 a 3\n1 0 b 2147483647\n", "line 2: the relevance '2147483647' is no grade"),
        (read_qrels, f"1 0 a -{2**64}\n", "line 1: the relevance '-18446744073709551616' is no grade"),
        (read_pairs, "a query\n", "line 1: expected `query <tab> passage`"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path: Path, reader, content, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DataFileError, match=message):
        reader(written(tmp_path / "file", content))


def _zip() -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("p.tsv", "1\tthe river\n")
    return archive.getvalue()


def _tar() -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as opened:
        member = tarfile.TarInfo("p.tsv")
        member.size = len(LINES)
        opened.addfile(member, io.BytesIO(LINES))
    return archive.getvalue()


LINES = b"1\tthe river\n2\tthe city\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_zip(), "is a zip archive"),
        (b"PAR1\x15\x04\x15\x1e\x15\x22L\x15", "is no Parquet file that can be read"),
        (_tar(), "is a tar archive: unpack it first"),
        (LINES.decode().encode("utf-16"), "is text in UTF-16: convert it first"),
    ],
    ids=["zip", "parquet", "tar", "utf-16"],
)
@pytest.mark.parametrize("reader", [read_texts, read_run, read_qrels, read_pairs])
def test_what_cannot_be_read_is_named(tmp_path: Path, reader, content: bytes, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DataFileError, match=message):
        reader(written(tmp_path / "file", content))


def test_texts_that_only_begin_like_such_files_are_read(tmp_path: Path) -> None:
    assert read_texts(written(tmp_path / "file", b"PAR1\tthe river\nBZh\tb\nPK\tc\n")) == {
        "PAR1": "the river",
        "BZh": "b",
        "PK": "c",
    }


def test_texts_by_their_ids_are_no_pairs(tmp_path: Path) -> None:
    file = tmp_path / "queries.tsv"
    lines = [f"q{number}\thow long is the river" for number in range(20)]
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(
        DataFileError, match=r"queries\.tsv: the first column is another word with digits in each of the 20 lines"
    ):
        read_pairs(file)
    for others in (
        lines[:-1],
        [*lines[:-1], lines[0]],
        [*lines[:-1], "how long\ta river"],
        [*lines[:-1], "rivers\ta river"],
    ):
        file.write_text("\n".join(others) + "\n")
        assert len(read_pairs(file)) == len(others)


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match=r"nothing cannot be read \(No such file"):
        read_texts(tmp_path / "nothing")
    with pytest.raises(DataFileError, match="Is a directory"):
        read_run(tmp_path)


def test_ids_of_a_run_that_the_other_files_lack_are_named(tmp_path: Path) -> None:
    queries = written(tmp_path / "q", "1\tone\n")
    passages = written(tmp_path / "p", "a\tA\n")
    with pytest.raises(DataFileError, match="query 2 is not in"):
        read_collection(queries, passages, written(tmp_path / "r", "2 Q0 a 1 1.0 t\n"))
    with pytest.raises(DataFileError, match=r"1 passage\(s\) of query 1 are not in .*, such as b"):
        read_collection(queries, passages, written(tmp_path / "r", "1 Q0 a 1 1.0 t\n1 Q0 b 2 0.5 t\n"))


def test_a_depth_that_cuts_nothing_needs_no_order(tmp_path: Path) -> None:
    queries = written(tmp_path / "q", "1\tone\n2\ttwo\n")
    run = written(tmp_path / "r", "1 Q0 a 1 0 t\n1 Q0 b 1 0 t\n2 Q0 a 1 0 t\n")
    assert read_candidates(queries, run, depth=2)[1] == read_run(run)
    with pytest.raises(OptionError, match="are all alike, so there are no best 1"):
        read_candidates(queries, run, depth=1)


@given(
    st.dictionaries(st.text("abc123", min_size=1, max_size=4), st.floats(-20, 20, width=32), min_size=1, max_size=30)
)
def test_a_run_keeps_full_precision_and_the_order_in_which_it_is_evaluated(scores: dict[str, float]) -> None:
    import io

    file = io.StringIO()
    write_run(file, "q", scores, tag="t")
    rows = [line.split() for line in file.getvalue().splitlines()]
    assert [np.float32(row[4]) for row in rows] == sorted(
        (np.float32(score) for score in scores.values()), reverse=True
    )
    assert [int(row[3]) for row in rows] == list(range(1, len(scores) + 1))
    assert {row[2]: float(row[4]) for row in rows} == scores


def test_ties_go_as_trec_eval_breaks_them() -> None:
    ir_measures = pytest.importorskip("ir_measures")
    scores = {"a": 1.0, "c": 1.0, "b": 1.0, "d": 0.5}
    assert ranked(scores) == ["c", "b", "a", "d"]
    for relevant, expected in (("c", 1.0), ("b", 0.5), ("a", 1 / 3)):
        measured = ir_measures.calc_aggregate([ir_measures.RR], {"q": {relevant: 1}}, {"q": scores})
        assert measured[ir_measures.RR] == pytest.approx(expected)
