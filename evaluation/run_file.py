"""`RunFile`: a TREC run on disk, read a query at a time."""

import io
from array import array
from collections.abc import Iterator
from pathlib import Path

from ..engine.errors import DataFileError
from ..engine.files.trec import line_of, located_lines, ranked, run_fields, text_lines


class RunFile:
    """A TREC run of any size, indexed by query; every line is checked when it is opened.

    The index takes 24 bytes for each block of lines of one query. Lines of a query need not be neighbours, but a run in
    which they are, as runs commonly are, is indexed in next to nothing. Raises DataFileError, naming the line, for what
    is no line of a run and for a score that is not finite. Any number of threads may read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._blocks: dict[str, array[int]] = {}
        """Of each query: where its blocks begin and end, in bytes, and the number of their first line."""
        block: array[int] = array("q")
        before: str | None = None
        for number, position, line in located_lines(path):
            query, _, _ = run_fields(line, number, path)
            if query != before:
                if before is not None:
                    block[-2] = position
                before, block = query, self._blocks.setdefault(query, array("q"))
                block.extend((position, -1, number))
        block[-2] = path.stat().st_size

    def __len__(self) -> int:
        return len(self._blocks)

    def __iter__(self) -> Iterator[str]:
        """Yield the queries, in the order of their first lines."""
        return iter(self._blocks)

    def __contains__(self, query: object) -> bool:
        return query in self._blocks

    def candidates(self, query: str, depth: int | None = None) -> dict[str, float]:
        """Return a query's passages with their scores, best first as trec_eval orders them; of these the first `depth`.

        A query that the run lacks has none. Raises DataFileError, naming the line, for a passage that comes twice.
        """
        scores: dict[str, float] = {}
        blocks = self._blocks.get(query, array("q"))
        with self.path.open("rb") as file:
            for start, end, first in zip(blocks[::3], blocks[1::3], blocks[2::3], strict=True):
                file.seek(start)
                for number, line in text_lines(io.BytesIO(file.read(end - start)), self.path, first=first):
                    _, passage, score = run_fields(line, number, self.path)
                    if passage in scores:
                        raise DataFileError(
                            f"{self.path}, line {number}: passage {passage} comes a second time for query {query}"
                        )
                    scores[passage] = score
        return {passage: scores[passage] for passage in ranked(scores)[:depth]}

    def line_of(self, query: str, passage: str | None = None) -> int:
        """Return the first line that names this query, with this passage. Reads the file again: for messages."""
        return line_of(self.path, query, passage)
