"""Lists are cut evenly and joined to blocks, whose names depend on their content alone."""

import random
from pathlib import Path

import pytest

from crossrt.distributed.rows import Block, Candidates, Row, blocks, pieces
from crossrt.engine.errors import DataFileError, OptionError
from crossrt.engine.files.trec import read_candidates


@pytest.mark.parametrize(("count", "most", "sizes"), [(0, 5, []), (5, 5, [5]), (6, 5, [3, 3]), (11, 5, [3, 4, 4])])
def test_a_long_list_is_cut_into_few_pieces_of_about_equal_size(count: int, most: int, sizes: list[int]) -> None:
    docnos = [str(number) for number in range(count)]
    found = list(pieces(docnos, most))
    assert [len(piece) for piece in found] == sizes
    assert [docno for piece in found for docno in piece] == docnos


def rows(*sizes: int) -> list[Row]:
    return [Row(f"q{n}", f"text {n}", tuple(f"d{n}-{m}" for m in range(size))) for n, size in enumerate(sizes)]


def test_blocks_hold_consecutive_rows_within_their_size() -> None:
    found = list(blocks(rows(3, 3, 3, 9, 1, 1), 6))
    assert [block.pairs for block in found] == [6, 3, 9, 2]
    assert [row for block in found for row in block.rows] == rows(3, 3, 3, 9, 1, 1)


def test_the_name_of_a_block_changes_with_any_of_its_texts_and_ids() -> None:
    row = Row("q", "text", ("a", "b"))
    others = [Row("r", "text", ("a", "b")), Row("q", "texts", ("a", "b")), Row("q", "text", ("b", "a"))]
    names = {Block((each,)).name for each in [row, *others]}
    assert len(names) == 4
    assert Block((row,)).name in names


def test_a_block_survives_parquet() -> None:
    block = Block((Row("q", "naïve 東京\t", ("a", "7")), Row("r", "", ("b",))))
    assert Block.from_parquet(block.to_parquet()) == block


def write(folder: Path, lines: list[str], queries: str = "1\tone\n2\ttwo\n3\tthree\n") -> tuple[Path, Path]:
    (folder / "run").write_text("".join(lines))
    (folder / "queries").write_text(queries)
    return folder / "run", folder / "queries"


@pytest.mark.parametrize("depth", [None, 1, 3, 100])
def test_candidates_are_those_of_the_other_reader_in_its_order(tmp_path: Path, depth: int | None) -> None:
    chance = random.Random(depth)
    lines = [f"{q} Q0 d{n} 1 {chance.randrange(5)} t\n" for q in (2, 1, 3) for n in range(q * 2)]
    chance.shuffle(lines)  # the lines of a query need not be consecutive
    run, queries = write(tmp_path, lines)
    texts, lists = read_candidates(queries, run, depth=depth)
    found = list(Candidates(run, queries, depth=depth).rows(None))
    assert found == [Row(query, texts[query], tuple(scores)) for query, scores in lists.items()]


def test_a_query_that_is_missing_is_named(tmp_path: Path) -> None:
    run, queries = write(tmp_path, ["9 Q0 d 1 1 t\n"])
    with pytest.raises(DataFileError, match="query 9 is not in"):
        Candidates(run, queries)


def test_an_empty_run_is_refused(tmp_path: Path) -> None:
    run, queries = write(tmp_path, [])
    with pytest.raises(DataFileError, match="is empty"):
        Candidates(run, queries)


def test_a_passage_that_comes_twice_is_named_with_its_line(tmp_path: Path) -> None:
    run, queries = write(tmp_path, ["1 Q0 d 1 2 t\n", "1 Q0 d 2 1 t\n"])
    with pytest.raises(DataFileError, match="line 2: passage d comes a second time for query 1"):
        list(Candidates(run, queries).rows(None))


def test_a_depth_needs_scores_that_differ(tmp_path: Path) -> None:
    run, queries = write(tmp_path, [f"1 Q0 d{n} 1 7 t\n" for n in range(3)])
    with pytest.raises(OptionError, match="all alike"):
        Candidates(run, queries, depth=2)
