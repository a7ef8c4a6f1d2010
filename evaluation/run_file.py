"""`RunFile`: a TREC run on disk, read one query at a time."""

import io
from array import array
from collections.abc import Iterator
from pathlib import Path

from ..engine.errors import DataFileError
from ..engine.files.trec import line_of, located_lines, ranked, run_fields, text_lines


class RunFile:
    """A TREC run of any size, indexed by query; every line is checked when it is opened.

    The index takes 24 bytes for each block of consecutive lines of one query. The lines of a query need not be consecutive,
    but usually are, and then the index is tiny. Raises DataFileError, naming the line, for a line that does not belong into
    a run and for a score that is not finite. Any number of threads may read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._blocks: dict[str, array[int]] = {}
        """For each query, three numbers per block: its first byte, the byte after its end, and the number of its first line."""
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
        """Return the first `depth` passages of a query, or all, with their scores, best first in the order of trec_eval.

        A query that the run lacks has none. Raises DataFileError, naming the line, for a passage that occurs twice.
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
        """Return the number of the first line with this query, and this passage. Reads the file again; for messages."""
        return line_of(self.path, query, passage)
