"""A run on disk is read a query at a time, and says the same as one that was read whole."""

import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossrt.engine.errors import DataFileError
from crossrt.engine.files.trec import ranked, read_run
from crossrt.evaluation.run_file import RunFile

LINES = st.dictionaries(
    st.tuples(st.sampled_from(["1", "2", "é"]), st.text("ab1é", min_size=1, max_size=3)),
    st.floats(-5, 5, width=16),
    min_size=1,
    max_size=25,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=LINES, end=st.sampled_from(["\n", "\r\n", "\n\n"]), mark=st.booleans(), depth=st.integers(1, 5))
def test_candidates_are_those_of_the_whole_run_best_first(
    tmp_path: Path, lines: dict[tuple[str, str], float], end: str, mark: bool, depth: int
) -> None:
    path = tmp_path / "run"
    text = "".join(f"{query} Q0 {passage} 1 {score} t{end}" for (query, passage), score in lines.items())
    path.write_bytes(("\ufeff" * mark + text).encode())
    whole, run = read_run(path), RunFile(path)
    assert list(run) == list(whole)
    assert len(run) == len(whole)
    for query, scores in whole.items():
        assert query in run
        assert list(run.candidates(query).items()) == [(passage, scores[passage]) for passage in ranked(scores)]
        assert list(run.candidates(query, depth)) == list(ranked(scores))[:depth]
    assert run.candidates("nobody") == {}


def test_lines_of_a_query_need_not_be_neighbours(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("1 Q0 a 1 1 t\n2 Q0 a 1 1 t\n1 Q0 b 1 2 t\n2 Q0 c 1 9 t\n")
    run = RunFile(tmp_path / "run")
    assert run.candidates("1") == {"b": 2, "a": 1}
    assert run.line_of("2") == 2
    assert run.line_of("2", "c") == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1 Q0 a 1 2.0\n", "line 1: expected `query Q0 passage rank score tag`"),
        ("1 Q0 a 1 2 t\n1 Q0 b 2 high t\n", "line 2: the score 'high' is not a number"),
        ("1 Q0 a 1 nan t\n", "line 1: the score nan orders nothing"),
        ("1 Q0 a 1 2 t\n1 Q0 b 2 -inf t\n", "line 2: the score -inf orders nothing"),
        ("", "is empty"),
    ],
)
def test_a_line_that_cannot_be_used_is_named_when_the_run_is_opened(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "run").write_text(content)
    with pytest.raises(DataFileError, match=message):
        RunFile(tmp_path / "run")


def test_a_passage_that_comes_twice_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("1 Q0 a 1 1 t\n2 Q0 a 1 1 t\n\n1 Q0 a 1 2 t\n")
    with pytest.raises(DataFileError, match="line 4: passage a comes a second time for query 1"):
        RunFile(tmp_path / "run").candidates("1")


def test_memory_does_not_grow_with_the_candidates(tmp_path: Path) -> None:
    def held(candidates: int) -> int:
        path = tmp_path / "run"
        with path.open("w") as file:
            file.writelines(f"{query} Q0 p{row} 1 {-row} t\n" for query in range(100) for row in range(candidates))
        tracemalloc.start()
        run = RunFile(path)
        found, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(run.candidates("99")) == candidates
        return found

    assert held(200) < held(2) + 10_000
