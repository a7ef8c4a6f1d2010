"""A BM25 run is BM25's, and is made once."""

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("bm25s")

from crossrt.engine.errors import DataFileError, OptionError
from crossrt.evaluation.candidates import bm25_run, cached_file
from crossrt.evaluation.collection import Collection
from crossrt.evaluation.passage_file import PassageFile
from crossrt.evaluation.prepared_passages import PreparedPassages
from crossrt.evaluation.run_file import RunFile

VOCABULARY = ["berlin", "river", "paris", "eggs", "salt", "the", "is"]
TEXTS = st.lists(st.sampled_from(VOCABULARY), max_size=8).map(" ".join)


def by_hand(query: str, passages: dict[str, str]) -> dict[str, float]:
    """Lucene's BM25 with k1 0.9 and b 0.4, of words that are no stopwords, each as often as the query has it."""
    words = {name: [word for word in text.split() if word not in ("the", "is")] for name, text in passages.items()}
    # bm25s counts a passage without words as one of a single empty word.
    mean = sum(max(1, len(found)) for found in words.values()) / len(words)
    scores = {}
    for name, found in words.items():
        counts, score = Counter(found), 0.0
        for word in query.split():
            having = sum(word in others for others in words.values())
            inverse = math.log(1 + (len(words) - having + 0.5) / (having + 0.5))
            frequency = counts[word]
            score += inverse * frequency / (frequency + 0.9 * (1 - 0.4 + 0.4 * max(1, len(found)) / mean))
        if score:
            scores[name] = score
    return scores


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(passages=st.lists(TEXTS, min_size=1, max_size=12), query=TEXTS, depth=st.integers(1, 15))
def test_scores_are_bm25s(
    tmp_path_factory: pytest.TempPathFactory, passages: list[str], query: str, depth: int
) -> None:
    folder = tmp_path_factory.mktemp("bm25")
    texts = {f"p{row}": text for row, text in enumerate(passages)}
    (folder / "p").write_text("".join(f"{name}\t{text}\n" for name, text in texts.items()))
    expected = by_hand(" ".join(word for word in query.split() if word not in ("the", "is")), texts)
    if not expected and not by_hand("berlin", texts):
        with pytest.raises(DataFileError, match="BM25 finds nothing"):
            bm25_run({"q": query, "r": "berlin"}, PassageFile(folder / "p"), folder, depth=depth)
        return
    run = bm25_run({"q": query, "r": "berlin"}, PassageFile(folder / "p"), folder, depth=depth)
    found = RunFile(run).candidates("q")
    assert len(found) == min(depth, len(expected))
    assert list(found.values()) == pytest.approx(sorted(expected.values(), reverse=True)[:depth], rel=1e-5)
    assert all(score == pytest.approx(expected[name], rel=1e-5) for name, score in found.items())


def test_a_file_is_made_once_of_the_same_and_again_of_another(tmp_path: Path) -> None:
    times: list[int] = []

    def write(file: IO[str]) -> None:
        times.append(1)
        file.write(f"{len(times)}")

    for of, expected in (({"a": 1}, "1"), ({"a": 1}, "1"), ({"a": 2}, "2")):
        assert cached_file(tmp_path / "f", of, write).read_text() == expected
    (tmp_path / ".f.made").unlink()
    assert cached_file(tmp_path / "f", {"a": 2}, write).read_text() == "3"


def test_a_collection_without_a_run_gets_one(collect: Callable[..., Collection], tmp_path: Path) -> None:
    collection = collect(run=None, depth=4)
    assert collection.run.source.files[0] == tmp_path / "candidates.run.trec"
    assert set(collection.evaluated.values()) == {4}
    assert collection.name == "collection/queries, candidates of a BM25 run made for it"
    assert collect().name == "collection/run"


def test_prepared_passages_have_no_texts_to_search(tmp_path: Path) -> None:
    prepared = object.__new__(PreparedPassages)
    prepared.where = "p.store"
    with pytest.raises(OptionError, match=r"p.store holds no texts to make a BM25 run from"):
        bm25_run({"1": "a"}, prepared, tmp_path)


@pytest.mark.parametrize(("query", "passage"), [("q 1", "p1"), ("q1", "p 1")])
def test_ids_that_a_run_cannot_hold_are_refused(tmp_path: Path, query: str, passage: str) -> None:
    (tmp_path / "p").write_text(f"{passage}\tberlin\nother\triver\n")
    with pytest.raises(DataFileError, match=r"the id '[pq] 1' is not one word"):
        bm25_run({query: "berlin"}, PassageFile(tmp_path / "p"), tmp_path)
    assert not (tmp_path / "candidates.run.trec").exists()


def test_a_search_that_finds_nothing_says_so(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("1\tthe river\n2\tberlin\n")
    with pytest.raises(
        DataFileError, match=r"BM25 finds nothing: no query shares a word with .*p, not counting stopwords"
    ):
        bm25_run({"q1": "the", "q2": "chess"}, PassageFile(tmp_path / "p"), tmp_path)
    assert not (tmp_path / "candidates.run.trec").exists()
