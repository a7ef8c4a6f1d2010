"""A small collection, as files."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crossrt.evaluation.collection import Collection
from crossrt.evaluation.passage_file import PassageFile

WORDS = "berlin city river long green people live paris eggs salt water light red blue north south sun stone".split()


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Write 8 queries, 40 passages of which some are the same, 10 candidates a query, and judgments of 7 queries.

    q5 has no candidates, q7 no judgments.
    """
    folder = tmp_path / "collection"
    folder.mkdir()
    texts = [" ".join(WORDS[(row * step) % len(WORDS)] for step in range(1, 3 + row % 9)) for row in range(40)]
    texts[7] = texts[17] = texts[27] = texts[3]
    contents = {
        "queries": "".join(f"q{query}\twhere is the {WORDS[query]} {WORDS[query + 3]}\n" for query in range(8)),
        "passages": "".join(f"p{row}\t{text}\n" for row, text in enumerate(texts)),
        "run": "".join(
            f"q{query} Q0 p{(query * 3 + place * 7) % 40} {place + 1} {20 - place / 2} bm25\n"
            for query in range(8)
            if query != 5
            for place in range(10)
        ),
        "qrels": "".join(
            f"q{query} 0 p{(query * 3 + place * 7) % 40} {place % 3}\n"
            for query in range(7)
            for place in (0, 2, 4, 8, 11)
        ),
    }
    for name, content in contents.items():
        (folder / name).write_text(content)
    return {name: folder / name for name in contents}


@pytest.fixture
def collect(files: dict[str, Path], tmp_path: Path) -> Any:
    """Return a function that makes a Collection of the files, as they are when it is called."""

    def make(**options: Any) -> Collection:
        given = {
            "queries": files["queries"],
            "qrels": files["qrels"],
            "run": files["run"],
            "folder": tmp_path,
            "passages": options.pop("passages", None) or PassageFile(files["passages"]),
        }
        return Collection.from_files(**given | options)  # type: ignore[arg-type]

    return make


@pytest.fixture
def with_another(bundle: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that copies the bundle and gives one file other bytes, of the same meaning, unknown to its manifest."""

    def make(name: str) -> Path:
        copy = tmp_path / "another"
        shutil.copytree(bundle, copy)
        manifest = json.loads((copy / "manifest.json").read_text())
        with (copy / name).open("ab") as opened:
            opened.write(b" " if name.endswith(".json") else b"\xa0\x06\x01")  # protobuf: a field that nobody knows
        for file in manifest["files"]:
            file["size"] = (copy / file["name"]).stat().st_size
        (copy / "manifest.json").write_text(json.dumps(manifest))
        return copy

    return make
