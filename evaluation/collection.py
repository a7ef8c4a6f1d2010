"""`Collection`: queries with candidates, passages and relevance judgments, checked for consistency."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from ..engine.errors import DataFileError, OptionError
from ..engine.files.source import STANDARD_INPUT_NAME, Given, Source
from ..engine.files.texts import read_texts
from ..engine.files.trec import Qrels, line_of, read_qrels
from ..measurement.provenance import Provenance
from .candidates import bm25_run
from .passages import Passages
from .run_file import RunFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """What is evaluated: the first `depth` candidates of each judged query, or all candidates.

    `evaluated` maps each judged query with candidates to the number of candidates that are scored, in the run's order.
    `unanswered` are judged queries without candidates, which count as empty lists; with `limit` there are none. `unjudged` is the
    number of the run's queries without judgments, which are left out. Queries and judgments are held in memory. Passages and
    candidates are looked up one query at a time. `ordered` is False if all candidates of each query have equal scores.
    """

    name: str
    queries: Mapping[str, str]
    qrels: Qrels
    passages: Passages
    run: RunFile
    depth: int | None
    limit: int | None
    evaluated: Mapping[str, int]
    unanswered: tuple[str, ...]
    unjudged: int
    ordered: bool
    sources: Mapping[str, Provenance]

    @classmethod
    def of(
        cls,
        *,
        name: str,
        queries: Mapping[str, str],
        qrels: Qrels,
        passages: Passages,
        run: RunFile,
        queries_source: Source | str,
        qrels_source: Source | str,
        depth: int | None = None,
        limit: int | None = None,
        progress: bool = False,
    ) -> "Collection":
        """Check that everything fits together. Read all candidates once or, with `limit`, those of the first judged queries.

        The sources are `Source`s of files, or names for messages. Raises DataFileError, naming file and line, for a judged query
        that is not among the queries, for a query or passage of the run that does not exist, for a passage that occurs twice, and
        if no query of the run is judged. Raises OptionError for `depth` and `limit` below 1, and for a `depth` that cuts lists of
        equal scores.
        """
        for option, value in (("depth", depth), ("limit", limit)):
            if value is not None and value < 1:
                raise OptionError(f"--{option} {value}: give a whole number from 1, or leave it out for all")
        for query in qrels:
            if query not in queries:
                raise DataFileError(f"{_where(qrels_source, query)}: query {query} is not in {queries_source}")
        for query in run:
            if query not in queries:
                raise DataFileError(
                    f"{run.source}, line {run.line_of(query)}: query {query} is not in {queries_source}"
                )
        judged = [query for query in run if query in qrels]
        if not judged:
            answered, asked = next(iter(run)), next(iter(qrels))
            raise DataFileError(
                f"no query of {run.source} is judged in {qrels_source}: the one has queries such as {answered} (line "
                f"{run.line_of(answered)}), the other such as {asked} ({_where(qrels_source, asked)})"
            )
        evaluated: dict[str, int] = {}
        ordered = False
        for query in tqdm(judged[:limit], desc="Checking", unit="query", disable=not progress):
            candidates = run.candidates(query, depth)
            missing = passages.missing(list(candidates))
            if missing:
                raise DataFileError(
                    f"{run.source}, line {run.line_of(query, missing[0])}: passage {missing[0]} of query {query} is not in "
                    f"{passages.where}" + (f", and {len(missing) - 1} more of this query" if missing[1:] else "")
                )
            evaluated[query] = len(candidates)
            ordered = ordered or len(set(candidates.values())) > 1
        if depth is not None and not ordered and any(count == depth for count in evaluated.values()):
            raise OptionError(
                f"--depth {depth}: the scores in {run.source} are all alike, so there are no best {depth}; leave --depth out"
            )
        return cls(
            name=name,
            queries={query: queries[query] for query in evaluated},
            qrels=qrels,
            passages=passages,
            run=run,
            depth=depth,
            limit=limit,
            evaluated=evaluated,
            unanswered=() if limit is not None else tuple(query for query in qrels if query not in run),
            unjudged=len(run) - len(judged),
            ordered=ordered,
            sources={
                "queries": _source(queries_source, queries),
                "passages": passages.source,
                "run": Provenance.of_source(run.source),
                "qrels": _source(qrels_source, qrels),
                # All judged queries of the run in their order, regardless of --limit, which may change between starts.
                "judged": Provenance(name="queries that are judged", sha256=Provenance.digest(judged)),
            },
        )

    @classmethod
    def from_files(
        cls,
        *,
        queries: Given,
        qrels: Given,
        passages: Passages,
        folder: Path,
        run: Given | None = None,
        depth: int | None = None,
        limit: int | None = None,
        progress: bool = False,
    ) -> "Collection":
        """Read files. Without a run, a BM25 run of `depth` or 100 candidates is made in `folder`. See `of`."""
        queries, qrels = Source.of(queries), Source.of(qrels)
        query_texts, judged = read_texts(queries), read_qrels(qrels)
        run = None if run is None else Source.of(run)
        name = _with_folder(run or queries)
        if run is None:
            name += ", candidates of a BM25 run made for it"
            asked = {query: text for query, text in query_texts.items() if query in judged}
            run = bm25_run(asked, passages, folder, depth=depth, progress=progress)
        return cls.of(
            name=name,
            queries=query_texts,
            qrels=judged,
            passages=passages,
            run=RunFile(run),
            queries_source=queries,
            qrels_source=qrels,
            depth=depth,
            limit=limit,
            progress=progress,
        )

    @property
    def pairs(self) -> int:
        """Number of pairs that each model scores."""
        return sum(self.evaluated.values())

    def lists(self, start: int = 0) -> Iterator[tuple[str, list[str]]]:
        """Yield the evaluated queries from index `start` on, each with the ids of its candidates, best first."""
        for query in list(self.evaluated)[start:]:
            yield query, list(self.run.candidates(query, self.depth))

    def describe(self) -> list[str]:
        """Return lines that say what is evaluated and what is left out."""
        depth = "" if self.depth is None else f", the first {self.depth} of each"
        said = [f"{self.name}: {len(self.evaluated)} queries with {self.pairs:,} candidates{depth}"]
        if self.limit is not None:
            said.append(f"a try-out: the first {self.limit} judged queries alone (--limit)")
        if self.unanswered:
            said.append(
                f"{len(self.unanswered)} judged queries have no candidates and count as such, as {self.unanswered[0]}"
            )
        if self.unjudged:
            said.append(f"{self.unjudged} queries of the run have no judgments and are left out")
        return said


def _source(source: Source | str, content: object) -> Provenance:
    return (
        Provenance.of_source(source)
        if isinstance(source, Source)
        else Provenance(name=source, sha256=Provenance.digest(content))
    )


def _where(source: Source | str, query: str) -> str:
    return f"{source}, line {line_of(source, query)}" if isinstance(source, Source) else source


def _with_folder(source: Source) -> str:
    """Return the source's name with its first file's folder, which often says more than a name such as `run.trec`."""
    if source.name == STANDARD_INPUT_NAME:
        return source.name
    return f"{Path(source.names[0]).absolute().parent.name}/{source.short_name}"
