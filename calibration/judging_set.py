"""`JudgingSet`: lists of candidates on which the rankings of a precision are judged."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..engine.errors import DataFileError
from ..engine.files.digests import texts_sha256
from ..engine.files.source import Given, Source
from ..engine.files.trec import read_collection, read_qrels

MIN_QUERIES = 20
MIN_CANDIDATES = 50
"""Minimum number of queries, and of candidates per query. The top ten of ten candidates would always agree."""
MAX_CANDIDATES = 100
MAX_PAIRS = 5000
MAX_POOL = 100_000
"""Most passages of other queries among which BM25 looks for a query's candidates. Its index takes 2.4 KB for a passage of 50
words."""
SAMPLE = Path(__file__).resolve().parent.parent / "demo" / "sample"

Pairs = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgingSet:
    """At least 20 queries with at least 50 candidates each.

    `candidates` maps the id of a query to the ids of its passages. `qrels`, if any, are relevance judgements by the same ids.
    """

    queries: Mapping[str, str]
    passages: Mapping[str, str]
    candidates: Mapping[str, tuple[str, ...]]
    qrels: Mapping[str, Mapping[str, int]] | None
    source: str
    sha256: str

    @classmethod
    def of(
        cls,
        queries: Mapping[str, str],
        passages: Mapping[str, str],
        candidates: Mapping[str, Sequence[str]],
        *,
        source: str,
        qrels: Mapping[str, Mapping[str, int]] | None = None,
        seed: int = 0,
    ) -> "JudgingSet":
        """Use the first 100 candidates of each query with at least 50. If these are more than about 5,000 pairs, sample queries.

        Raises DataFileError, saying how many are needed, when fewer than 20 queries have enough candidates.
        """
        long = {query: tuple(ids)[:MAX_CANDIDATES] for query, ids in candidates.items() if len(ids) >= MIN_CANDIDATES}
        if len(long) < MIN_QUERIES:
            raise DataFileError(
                f"{source}: {len(long)} of {len(candidates)} queries have at least {MIN_CANDIDATES} candidates, and a ranking "
                f"is judged on at least {MIN_QUERIES} such queries; give more candidates or more queries"
            )
        most = max(MIN_QUERIES, MAX_PAIRS // max(len(ids) for ids in long.values()))
        if len(long) > most:
            long = {query: long[query] for query in sorted(random.Random(seed).sample(sorted(long), most))}
        sha256 = texts_sha256(
            text for query, ids in long.items() for text in (queries[query], *(passages[passage] for passage in ids))
        )
        return cls(queries=queries, passages=passages, candidates=long, qrels=qrels, source=source, sha256=sha256)

    @classmethod
    def from_trec(
        cls, queries: Given, passages: Given, run: Given, *, qrels: Given | None = None, seed: int = 0
    ) -> "JudgingSet":
        """Read a TREC run, with texts from two TSV files, and qrels if given."""
        run = Source.of(run)
        query_texts, passage_texts, candidates = read_collection(queries, passages, run)
        return cls.of(
            query_texts,
            passage_texts,
            {query: tuple(scores) for query, scores in candidates.items()},
            source=run.short_name,
            qrels=None if qrels is None else read_qrels(qrels),
            seed=seed,
        )

    @classmethod
    def builtin(cls) -> "JudgingSet":
        """Return 20 of the lists that come with crossrt, with 50 candidates each: descriptions of Debian packages."""
        queries, passages, candidates = read_collection(
            *(SAMPLE / name for name in ("queries.tsv", "passages.tsv", "bm25.run.trec"))
        )
        taken = list(candidates)[:: len(candidates) // MIN_QUERIES][:MIN_QUERIES]
        lists = {query: tuple(candidates[query]) for query in taken}
        return cls.of(queries, passages, lists, source="built-in lists")

    @classmethod
    def pooled(cls, pairs: Pairs, *, source: str, seed: int = 0) -> "JudgingSet":
        """Make lists from bare pairs: a query's own passages, filled up to 50 with BM25's best among all passages, or among a
        sample of `MAX_POOL` passages of other queries if there are more.

        A quarter of the queries are used, at least 20 and at most 50. The rest is left for calibration. Raises DataFileError,
        saying how many are needed, for fewer than 40 queries or 50 different passages.
        """
        by_query: dict[str, list[str]] = {}
        for query, passage in dict.fromkeys(pairs):
            by_query.setdefault(query, []).append(passage)
        pool = list(dict.fromkeys(passage for _, passage in pairs))
        if len(by_query) < 2 * MIN_QUERIES or len(pool) < MIN_CANDIDATES:
            raise DataFileError(
                f"{source} holds {len(by_query)} different queries and {len(pool)} different passages; to calibrate and to "
                f"judge, at least {2 * MIN_QUERIES} queries and {MIN_CANDIDATES} passages are needed. Give more pairs, or ranked "
                "lists to judge on with --judge"
            )
        count = min(50, max(MIN_QUERIES, len(by_query) // 4))
        chosen = random.Random(seed).sample(sorted(by_query), count)
        own_passages = dict.fromkeys(passage for query in chosen for passage in by_query[query])
        if len(pool) - len(own_passages) > MAX_POOL:
            others = [passage for passage in pool if passage not in own_passages]
            pool = [*own_passages, *random.Random(seed).sample(others, MAX_POOL)]
        nearest = _bm25(chosen, pool)
        numbers = {passage: number for number, passage in enumerate(pool)}
        candidates = {}
        for place, query in enumerate(chosen):
            own = [numbers[passage] for passage in by_query[query]]
            passages_of = list(dict.fromkeys([*own, *nearest[place]]))[: max(MIN_CANDIDATES, len(own))]
            candidates[str(place)] = tuple(str(number) for number in passages_of)
        return cls.of(
            {str(place): query for place, query in enumerate(chosen)},
            {str(number): passage for number, passage in enumerate(pool)},
            candidates,
            source=f"{source}, pooled",
            seed=seed,
        )

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """All pairs, list after list."""
        return [
            (self.queries[query], self.passages[passage]) for query, ids in self.candidates.items() for passage in ids
        ]

    @property
    def rows(self) -> list[range]:
        """The indices in `pairs` of each list."""
        rows, start = [], 0
        for ids in self.candidates.values():
            rows.append(range(start, start + len(ids)))
            start += len(ids)
        return rows

    @property
    def texts_of_queries(self) -> frozenset[str]:
        """The texts of the judged queries."""
        return frozenset(self.queries[query] for query in self.candidates)


def _bm25(queries: Sequence[str], passages: Sequence[str]) -> list[list[int]]:
    """Return the indices of the best `MIN_CANDIDATES` passages for each query, best first."""
    import bm25s

    retriever = bm25s.BM25()
    retriever.index(bm25s.tokenize(list(passages), stopwords=None, show_progress=False), show_progress=False)
    tokens = bm25s.tokenize(list(queries), stopwords=None, show_progress=False)
    results, _ = retriever.retrieve(tokens, k=min(MIN_CANDIDATES, len(passages)), show_progress=False)
    return [list(map(int, row)) for row in results]
