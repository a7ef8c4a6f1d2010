"""`Row` is a query with candidates that are scored together. `Block` is a group of rows that one task scores and commits."""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..engine.errors import DataFileError, OptionError
from ..engine.files.source import Given, Source
from ..engine.files.texts import read_texts
from ..engine.files.trec import ranked
from ..evaluation.run_file import RunFile


@dataclass(frozen=True, slots=True)
class Row:
    """A query, and the ids of its candidates or of a piece of them, in the order of the run."""

    qid: str
    query: str
    docnos: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """Rows that are scored by one task. `name` is a digest of all ids and query texts, so equal rows have one name."""

    rows: tuple[Row, ...]

    @property
    def name(self) -> str:
        """32 hexadecimal digits."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(json.dumps([row.qid, row.query, row.docnos]).encode() + b"\n")
        return digest.hexdigest()[:32]

    @property
    def pairs(self) -> int:
        """Number of query-passage pairs in the rows."""
        return sum(len(row.docnos) for row in self.rows)

    def to_parquet(self) -> bytes:
        """Return the rows as a Parquet table with the columns qid, query and docnos."""
        import pyarrow
        from pyarrow import parquet

        text = pyarrow.string()
        schema = pyarrow.schema({"qid": text, "query": text, "docnos": pyarrow.list_(text)})
        rows = [{"qid": row.qid, "query": row.query, "docnos": row.docnos} for row in self.rows]
        file = io.BytesIO()
        parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), file, compression="zstd")
        return file.getvalue()

    @classmethod
    def from_parquet(cls, content: bytes) -> "Block":
        """Return the block that `to_parquet` wrote."""
        from pyarrow import parquet

        rows: list[dict[str, Any]] = parquet.read_table(io.BytesIO(content)).to_pylist()
        return cls(tuple(Row(row["qid"], row["query"], tuple(row["docnos"])) for row in rows))


class Candidates:
    """The rows of a run, read one query at a time. Memory does not depend on the number of candidates.

    The lists are those of `read_candidates`: `depth` keeps the best candidates of each query, in trec_eval's order. Raises
    DataFileError for an invalid line of the run or the queries, and for a query of the run that the queries lack. Raises
    OptionError for a `depth` that cuts lists when all scores of the run are equal.
    """

    def __init__(self, run: Given, queries: Given, *, depth: int | None = None) -> None:
        source = Source.of(queries)
        self._queries = read_texts(source)
        self._run = RunFile(run)
        for query in self._run:
            if query not in self._queries:
                raise DataFileError(f"{self._run.source}: query {query} is not in {source}")
        self._depth = self._checked_depth(depth)

    def rows(self, cut: int | None) -> Iterator[Row]:
        """Yield each query's candidates. A list longer than `cut` is split into pieces of about equal size, if `cut` is given.

        Raises DataFileError, naming the line, for a passage that occurs twice.
        """
        for query in self._run:
            scores = self._run.scores(query)
            docnos = list(scores) if self._depth is None else ranked(scores)[: self._depth]
            for piece in pieces(docnos, cut or len(docnos)):
                yield Row(query, self._queries[query], tuple(piece))

    def __len__(self) -> int:
        return len(self._run)

    def _checked_depth(self, depth: int | None) -> int | None:
        if depth is None:
            return None
        longer = told_apart = False
        for query in self._run:
            scores = self._run.scores(query)
            longer |= len(scores) > depth
            told_apart |= len(set(scores.values())) > 1
        if longer and not told_apart:
            raise OptionError(
                f"--depth {depth}: the scores in {self._run.source} are all alike, so there are no best {depth}; leave --depth "
                "out"
            )
        return depth if longer else None


def pieces(docnos: Sequence[str], most: int) -> Iterator[Sequence[str]]:
    """Split ids into as few pieces of at most `most` as possible. The sizes differ by at most 1."""
    count = -(-len(docnos) // most)
    for number in range(count):
        yield docnos[len(docnos) * number // count : len(docnos) * (number + 1) // count]


def blocks(rows: Iterable[Row], pairs: int) -> Iterator[Block]:
    """Yield consecutive rows as blocks of at most `pairs` pairs. A longer row is a block by itself."""
    waiting: list[Row] = []
    count = 0
    for row in rows:
        if waiting and count + len(row.docnos) > pairs:
            yield Block(tuple(waiting))
            waiting, count = [], 0
        waiting.append(row)
        count += len(row.docnos)
    if waiting:
        yield Block(tuple(waiting))
