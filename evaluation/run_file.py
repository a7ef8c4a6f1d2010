"""`RunFile`: a run on disk that is read one query at a time."""

from array import array
from collections.abc import Iterator

from ..engine.errors import DataFileError
from ..engine.files.source import Given, Source
from ..engine.files.trec import candidate_of, line_of, located_candidates, ranked


class RunFile:
    """A run of any size and format, indexed by query. Every line is checked when the run is opened.

    The index takes 24 bytes for each block of consecutive lines of one query. The lines of a query need not be consecutive, but
    usually are, and then the index is tiny. Anything but one plain text file, such as compressed files, Parquet or several files,
    is unpacked into a temporary file. Any number of threads may read. Raises DataFileError, naming the line, for a line that does
    not belong to a run and for a score that is not finite.
    """

    def __init__(self, given: Given) -> None:
        self.source = Source.of(given)
        self._lines = self.source.unpacked()
        self._blocks: dict[str, array[int]] = {}
        """For each query, three numbers per block: its first byte, the byte after its end, and the number of its first line."""
        block: array[int] = array("q")
        before: str | None = None
        for line, found in located_candidates(self._lines):
            if found.query != before:
                if before is not None:
                    block[-2] = line.position
                before, block = found.query, self._blocks.setdefault(found.query, array("q"))
                block.extend((line.position, -1, line.number))
        block[-2] = self._lines.size_and_time()[0]

    def __len__(self) -> int:
        return len(self._blocks)

    def __iter__(self) -> Iterator[str]:
        """Yield the queries, in the order of their first lines."""
        return iter(self._blocks)

    def __contains__(self, query: object) -> bool:
        return query in self._blocks

    def candidates(self, query: str, depth: int | None = None) -> dict[str, float]:
        """Return the first `depth` passages of a query, or all, with their scores, best first in the order of trec_eval.

        The result is empty for a query that the run lacks. Raises DataFileError, naming the line, for a passage that occurs
        twice.
        """
        scores = self.scores(query)
        return {passage: scores[passage] for passage in ranked(scores)[:depth]}

    def scores(self, query: str) -> dict[str, float]:
        """Return all passages of a query with their scores, in the order of the file. Raises the errors of `candidates`."""
        scores: dict[str, float] = {}
        blocks = self._blocks.get(query, array("q"))
        for line in self._lines.lines_in(zip(blocks[::3], blocks[1::3], blocks[2::3], strict=True)):
            found = candidate_of(line)
            if found.passage in scores:
                raise DataFileError(f"{line.where}: passage {found.passage} comes a second time for query {query}")
            scores[found.passage] = found.score
        return scores

    def line_of(self, query: str, passage: str | None = None) -> int:
        """Return the number of the first line with this query and passage. For messages, since it reads the file again."""
        return line_of(self._lines, query, passage)
