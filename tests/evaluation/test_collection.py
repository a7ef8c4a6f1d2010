"""A collection whose parts do not fit together is refused by file and line, before anything is scored."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crossrt.engine.errors import DataFileError, OptionError
from crossrt.evaluation.collection import Collection
from crossrt.evaluation.open_passages import open_passages

Collect = Callable[..., Collection]


def test_judged_queries_are_evaluated_in_the_order_of_the_run(collect: Collect) -> None:
    collection = collect()
    assert collection.evaluated == {f"q{query}": 10 for query in (0, 1, 2, 3, 4, 6)}
    assert collection.unanswered == ("q5",)
    assert collection.unjudged == 1
    assert collection.pairs == 60
    said = "\n".join(collection.describe())
    assert "6 queries with 60 candidates" in said
    assert "1 judged queries have no candidates and count as such, as q5" in said
    assert "1 queries of the run have no judgments" in said
    lists = list(collection.lists(4))
    assert [query for query, _ in lists] == ["q4", "q6"]
    assert lists[0][1][:3] == ["p12", "p19", "p26"]


def test_depth_takes_the_best_candidates_and_limit_the_first_queries(collect: Collect, files: dict[str, Path]) -> None:
    lines = files["run"].read_text().splitlines(keepends=True)
    files["run"].write_text("".join(reversed(lines)))
    collection = collect(depth=3, limit=2)
    assert list(collection.lists()) == [("q6", ["p18", "p25", "p32"]), ("q4", ["p12", "p19", "p26"])]
    assert collection.unanswered == ()
    assert "a try-out: the first 2 judged queries alone" in "\n".join(collection.describe())


def appended(file: Path, line: str) -> None:
    with file.open("a", encoding="utf-8") as opened:
        opened.write(line)


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("qrels", "q99 0 p1 1\n", r"qrels, line 36: query q99 is not in .*queries"),
        ("qrels", "q1 0 p3 1\n", "qrels, line 36: passage p3 comes a second time for query q1"),
        ("qrels", "q1 0 p3 high\n", "qrels, line 36: expected `query 0 passage relevance`"),
        ("run", "q77 Q0 p1 1 3 t\n", r"run, line 71: query q77 is not in .*queries"),
        (
            "run",
            "q2 Q0 x9 1 3 t\nq2 Q0 x8 1 3 t\n",
            r"run, line 71: passage x9 of query q2 is not in .*passages, and 1 more",
        ),
        ("run", "q2 Q0 p6 1 3 t\n", "run, line 71: passage p6 comes a second time for query q2"),
        ("queries", "q1\tagain\n", "queries, line 9: the id q1 comes a second time"),
        ("passages", "p1\tagain\n", "passages, line 41: the id p1 comes a second time"),
    ],
)
def test_what_does_not_fit_is_named_by_file_and_line(
    collect: Collect, files: dict[str, Path], file: str, line: str, message: str
) -> None:
    appended(files[file], line)
    with pytest.raises(DataFileError, match=message):
        collect()


def test_an_empty_intersection_shows_an_id_of_each_side(collect: Collect, files: dict[str, Path]) -> None:
    files["queries"].write_text("q0\tone\nt0\tother\n")
    files["run"].write_text("t0 Q0 p1 1 2 t\n")
    files["qrels"].write_text("q0 0 p1 1\n")
    with pytest.raises(
        DataFileError, match=r"no query of .*run is judged in .*: .* t0 \(line 1\), .* q0 \(.*qrels, line 1"
    ):
        collect()


@pytest.mark.parametrize("file", ["queries", "passages", "run", "qrels"])
def test_empty_and_absent_files_are_named(collect: Collect, files: dict[str, Path], file: str) -> None:
    files[file].write_text("\n")
    with pytest.raises(DataFileError, match=f"{file} is empty"):
        collect()
    files[file].unlink()
    with pytest.raises(DataFileError, match=f"{file} cannot be read"):
        collect()


def test_a_run_without_an_order_has_no_best_candidates(collect: Collect, files: dict[str, Path]) -> None:
    rows = [line.split() for line in files["run"].read_text().splitlines()]
    files["run"].write_text("".join(f"{row[0]} Q0 {row[2]} 0 0.0 t\n" for row in rows))
    assert not collect().ordered
    with pytest.raises(OptionError, match=r"--depth 5: the scores in .*run are all alike"):
        collect(depth=5)


@pytest.mark.parametrize("options", [{"depth": 0}, {"limit": -1}])
def test_less_than_one_is_refused(collect: Collect, options: dict[str, int]) -> None:
    with pytest.raises(OptionError, match=r"give a whole number from 1"):
        collect(**options)


def test_one_place_for_passages_is_asked_for(files: dict[str, Path], tmp_path: Path) -> None:
    for given in ((None, None), (files["passages"], tmp_path)):
        with pytest.raises(OptionError, match="one of them"):
            open_passages(*given)


def test_sources_name_files_without_their_folders(collect: Collect, files: dict[str, Path], tmp_path: Path) -> None:
    sources: Any = collect().sources
    assert {name: source.name for name, source in sources.items() if name in files} == {name: name for name in files}
    assert all(len(source.sha256) == 64 for source in sources.values())
