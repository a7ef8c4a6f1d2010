"""`run_output`: writes a ranked list for each query, in the format that the file's name asks for."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeAlias

from ..errors import BackendError, OptionError
from .publish import published_file
from .trec import ranked, write_run

AddQuery: TypeAlias = Callable[[str, Mapping[str, float]], None]
"""Adds a query with the scores of its passages, by id. They are written best first, and ties by id in descending order."""


@contextmanager
def run_output(out: Path, *, tag: str) -> Iterator[AddQuery]:
    """Yield a function that adds the passages of a query to `out`, which is published when the block succeeds.

    The suffix of the name decides the format. `.tsv` is MS MARCO's `query <tab> passage <tab> rank`. `.jsonl` has objects and
    `.parquet` a table, with `query_id`, `doc_id`, `rank` and `score`. Any other name is a TREC run, whose last column is `tag`.
    Raises BackendError if pyarrow is missing for Parquet, and what `check_output_name`, `check_tag` and `published_file` raise.
    """
    check_output_name(out)
    check_tag(tag)
    form = _FORMS.get(out.suffix.lower(), _trec)
    with published_file(out) as file, form(file, tag) as add:
        yield add


def check_output_name(out: Path) -> None:
    """Raise OptionError for the name of a compressed file: the output is not compressed."""
    if out.suffix.lower() in COMPRESSED:
        raise OptionError(
            f"{out} would not be compressed: give {out.with_suffix('')} and compress that, or --out - and a pipe to the "
            "program that compresses"
        )


def check_tag(tag: str) -> None:
    """Raise OptionError for a tag that is not one word: the columns of a run are separated by blanks."""
    if not tag or len(tag.split()) != 1:
        raise OptionError(f"--tag {tag!r}: give one word")


@contextmanager
def _trec(file: IO[str], tag: str) -> Iterator[AddQuery]:
    def add(query: str, scores: Mapping[str, float]) -> None:
        write_run(file, query, scores, tag=tag)

    yield add


@contextmanager
def _tsv(file: IO[str], tag: str) -> Iterator[AddQuery]:
    def add(query: str, scores: Mapping[str, float]) -> None:
        file.writelines(f"{query}\t{passage}\t{rank}\n" for rank, passage in enumerate(ranked(scores), start=1))

    yield add


@contextmanager
def _jsonl(file: IO[str], tag: str) -> Iterator[AddQuery]:
    def add(query: str, scores: Mapping[str, float]) -> None:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in _rows(query, scores))

    yield add


@contextmanager
def _parquet(file: IO[str], tag: str) -> Iterator[AddQuery]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise BackendError('a Parquet file needs pyarrow: pip install "crossrt[parquet]"') from None
    text = pyarrow.string()
    columns = {"query_id": text, "doc_id": text, "rank": pyarrow.int32(), "score": pyarrow.float64()}
    schema = pyarrow.schema(list(columns.items()))
    waiting: list[dict[str, Any]] = []
    with parquet.ParquetWriter(file.buffer, schema) as writer:  # type: ignore[attr-defined]  # published files have one

        def flush() -> None:
            if waiting:
                writer.write_table(pyarrow.Table.from_pylist(waiting, schema=schema))
                waiting.clear()

        def add(query: str, scores: Mapping[str, float]) -> None:
            waiting.extend(_rows(query, scores))
            if len(waiting) >= ROW_GROUP:
                flush()

        yield add
        flush()


COMPRESSED = frozenset({".gz", ".bz2", ".xz", ".zst"})
ROW_GROUP = 100_000
"""Rows that are written to a Parquet file together."""

_FORMS = {".tsv": _tsv, ".jsonl": _jsonl, ".parquet": _parquet}


def _rows(query: str, scores: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    for rank, passage in enumerate(ranked(scores), start=1):
        yield {"query_id": query, "doc_id": passage, "rank": rank, "score": float(scores[passage])}
