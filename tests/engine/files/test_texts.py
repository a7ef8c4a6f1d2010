"""Texts by their ids: tabs or JSON, by the field names of Pyserini, BEIR and MS MARCO's copies."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from crossrt.engine.errors import DataFileError
from crossrt.engine.files.texts import read_texts


def written(path: Path, *rows: Any) -> Path:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


@pytest.mark.parametrize(
    ("row", "name", "text"),
    [
        ({"id": "d1", "contents": "Berlin\nis a city"}, "d1", "Berlin\nis a city"),  # Pyserini
        ({"_id": "d1", "title": "Berlin", "text": "a city", "metadata": {"url": "u"}}, "d1", "Berlin a city"),  # BEIR
        ({"_id": "d1", "title": "", "text": "a city"}, "d1", "a city"),
        ({"_id": "q1", "text": "where"}, "q1", "where"),
        ({"id": 7, "title": "Berlin", "contents": "Berlin a city"}, "7", "Berlin a city"),
        ({"id": "d1", "title": "Berlin"}, "d1", "Berlin"),
        ({"id": "d1", "title": "Berlin", "text": None, "url": "u"}, "d1", "Berlin"),
        ({"pid": 0, "passage": ""}, "0", ""),
        ({"pid": "p_0", "passage": "a city", "spans": "(0,6)", "docid": "d_0"}, "p_0", "a city"),  # MS MARCO v2
        ({"qid": "1", "query": "a\tb"}, "1", "a\tb"),
        ({"id": None, "_id": "x", "text": "t"}, "x", "t"),
        ('{"id"}\ta text', '{"id"}', "a text"),
        ('{"id":1}x\ta text', '{"id":1}x', "a text"),
    ],
)
def test_fields_have_the_names_that_retrieval_tools_give(tmp_path: Path, row: Any, name: str, text: str) -> None:
    assert read_texts(written(tmp_path / "file", row)) == {name: text}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "1"}, r"line 2: expected `id <tab> text`, or a JSON object .* with the fields id"),
        ({"text": "a"}, "with the fields text"),
        ({}, "with the fields none"),
        ({"id": True, "text": "a"}, "with the fields id, text"),
        ({"id": 1.5, "text": "a"}, "with the fields id, text"),
        ({"id": "1", "text": ["a"]}, "with the fields id, text"),
        (
            {"docid": "1", "url": "u", "title": "a", "headings": "b", "body": "c"},
            "with the fields docid, url, title, headings",
        ),
        ({"docid": "1#0", "title": "a", "segment": "b"}, "with the fields docid, title, segment"),
        ({"id": "1", "title": "a", "text": ["b"]}, "with the fields id, title, text"),
        ({"id": "two words", "text": "a"}, "the id 'two words' is not one word"),
        ({"id": "line\n", "text": "a"}, "is not one word"),
        ('{"id": "1", "text": "\\ud800"}', "half of a surrogate pair"),
        ('{"id": "\\udfff", "text": "a"}', "half of a surrogate pair"),
        ({"id": "0", "text": "again"}, "the id 0 comes a second time"),
        ('{"id": "1", "text": "a"', "line 2: expected"),
        ('["1", "a"]', "line 2: expected"),
        ("[" * 100_000, "line 2: expected"),
        ('{"a":' * 100_000, "line 2: expected"),
    ],
)
def test_a_line_that_is_no_text_is_shown(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(DataFileError, match=message):
        read_texts(written(tmp_path / "file", {"id": 0, "text": "first"}, row))


def test_ids_that_are_not_wanted_take_no_memory(tmp_path: Path) -> None:
    lines = [f"passage-{number}\ta text" for number in range(5_000)]
    file = written(tmp_path / "file", *lines, lines[5], "wanted\tone")
    tracemalloc.start()
    try:
        assert read_texts(file, only={"wanted"}) == {"wanted": "one"}
        assert tracemalloc.get_traced_memory()[1] < 200_000  # the ids alone take 300 kB
    finally:
        tracemalloc.stop()
    with pytest.raises(DataFileError, match="line 5001: the id passage-5 comes a second time"):
        read_texts(file, only={"passage-5"})
