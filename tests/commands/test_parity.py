"""`crossrt parity` reads its files once, so that they may be pipes, and takes an error in them as one."""

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from crossrt.__main__ import main
from crossrt.calibration import judging_set

pytest.importorskip("torch")
from crossrt.export.parity import pairs as parity_pairs

QUERIES, PASSAGES = 2, 3


@pytest.fixture
def words(bundle: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Write a run of a few short lists, which is enough here. Return the words of a command without the run."""
    monkeypatch.setattr(judging_set, "MIN_QUERIES", QUERIES)
    monkeypatch.setattr(judging_set, "MIN_CANDIDATES", PASSAGES)
    monkeypatch.setattr(parity_pairs, "builtin_pairs", lambda max_length: [("river", "the river is long")])
    (tmp_path / "q.tsv").write_text("".join(f"q{number}\twhere is river {number}\n" for number in range(QUERIES)))
    (tmp_path / "p.tsv").write_text("".join(f"p{number}\ta city {number}\n" for number in range(PASSAGES)))
    rows = [f"q{query} Q0 p{row} {row + 1} {9 - row} bm25\n" for query in range(QUERIES) for row in range(PASSAGES)]
    (tmp_path / "run.trec").write_text("".join(rows))
    (tmp_path / "qrels").write_text("q0 0 p1 1\nq1 0 p2 1\n")
    files = ["--queries", str(tmp_path / "q.tsv"), "--passages", str(tmp_path / "p.tsv")]
    return ["crossrt", "parity", str(bundle), "--against", str(checkpoint), "--json", *files]


def run(patch: pytest.MonkeyPatch, words: list[str], *more: object) -> int:
    patch.setattr(sys, "argv", [*words, *map(str, more)])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_a_run_from_standard_input_is_checked_and_ranked(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    found = []
    for place in (tmp_path / "run.trec", "-"):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO((tmp_path / "run.trec").read_bytes())))
        assert run(monkeypatch, words, "--run", place, "--qrels", tmp_path / "qrels") == 0
        printed = capsys.readouterr()
        assert "not judged" not in printed.err
        report = json.loads(printed.out)
        found.append((report["pairs"], report["ranking"] | {"source": None}))
    assert found[0] == found[1]
    assert found[0][0] == 1 + QUERIES * PASSAGES


def test_lists_that_are_too_few_are_a_warning_and_wrong_judgments_an_error(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(judging_set, "MIN_QUERIES", QUERIES + 1)
    trec = ("--run", tmp_path / "run.trec", "--qrels", tmp_path / "qrels")
    assert run(monkeypatch, words, *trec) == 0
    assert "warning: the ranking is not judged: run.trec: 2 of 2 queries" in capsys.readouterr().err
    (tmp_path / "qrels").write_text("q0 0 p1 yes\n")
    assert run(monkeypatch, words, *trec) == 1
    assert "qrels, line 1: expected `query 0 passage relevance`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            ("--run", "-", "--qrels", "-"),
            "only one of --queries, --passages, --run and --qrels can be - (standard input)",
        ),
        (("--revision", "main"), "is a directory; give the branch, tag or commit of a hub id"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    words: list[str], more: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert run(monkeypatch, words, "--run", tmp_path / "run.trec", *more) == 2
    assert said in capsys.readouterr().err
