"""Reads and writes the files of retrieval experiments: runs, qrels, and files of pairs. Texts are read by `texts.py`.

Every reader takes what `Source.of` takes, and raises DataFileError, naming the file and the line, for a line that it cannot use.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, NamedTuple

import numpy as np

from ..errors import DataFileError, OptionError
from .source import Given, Line, Source
from .texts import check_columns, checked_id, field_as_id, is_json, json_object, read_texts, shown

FEW = 20
"""Fewest lines whose first column is searched for ids. Fewer lines could begin with such words by chance."""
ID = re.compile(r"\S*\d\S*")
"""Matches a text that looks like an id: one word with a digit."""

QUERY_FIELDS = ("query_id", "qid", "query")
PASSAGE_FIELDS = ("doc_id", "docid", "docno", "passage_id", "pid", "corpus_id")
"""Names of JSON fields and Parquet columns, as in ir_datasets, Pyserini and PyTerrier. The first one that exists is used."""
RUN_FORMS = (
    "`query Q0 passage rank score tag`, MS MARCO's `query passage rank`, or a JSON object with query_id, doc_id, and score or "
    "rank"
)
QREL_FORMS = "`query 0 passage relevance`, or BEIR's `query-id corpus-id score`"
BEIR_HEADER = ["query-id", "corpus-id", "score"]
MAX_GRADE = 1_000_000
"""Largest absolute value of a grade in qrels. trec_eval counts in 32 bits how often each grade up to the largest occurs: beyond
2^31 its measures are wrong, and below it the counts may take gigabytes."""

Run = dict[str, dict[str, float]]
"""Query id -> passage id -> score, in the file's order."""

Qrels = dict[str, dict[str, int]]
"""Query id -> passage id -> relevance."""


class Candidate(NamedTuple):
    """A line of a run. If it has a rank and no score, the score is minus the rank, and `by_rank` is True."""

    query: str
    passage: str
    score: float
    by_rank: bool


def read_run(given: Given) -> Run:
    """Read a run. Raises DataFileError for a repeated passage of a query."""
    run: Run = {}
    for line, found in located_candidates(Source.of(given)):
        scores = run.setdefault(found.query, {})
        if found.passage in scores:
            raise DataFileError(f"{line.where}: passage {found.passage} comes a second time for query {found.query}")
        scores[found.passage] = found.score
    return run


def located_candidates(source: Source) -> Iterator[tuple[Line, Candidate]]:
    """Yield every line of a run. Raises DataFileError, also if some lines have scores and others only ranks."""
    by_rank: bool | None = None
    for line in source.lines():
        found = candidate_of(line)
        if by_rank is None:
            by_rank = found.by_rank
        elif by_rank != found.by_rank:
            raise DataFileError(
                f"{line.where}: some lines of this run have scores and others only ranks, such as {shown(line.text)}"
            )
        yield line, found


def candidate_of(line: Line) -> Candidate:
    """Return the query, passage and score of a run's line.

    Raises DataFileError for a line of another form and for a score that is not finite.
    """
    fields = line.text.split()
    row = json_object(line.text)
    if row is not None:
        return _candidate_of_row(row, line)
    if len(fields) == 3:
        query, passage, rank = fields
        if not rank.isascii() or not rank.isdigit():
            raise DataFileError(
                f"{line.where}: of three columns the third is the rank, and {shown(rank)} is no whole number"
            )
        return Candidate(query, passage, -_finite(rank, line), by_rank=True)
    if len(fields) != 6:
        raise DataFileError(f"{line.where}: expected {RUN_FORMS}, got {shown(line.text)}")
    query, _, passage, _, score, _ = fields
    return Candidate(query, passage, _finite(score, line), by_rank=False)


def _candidate_of_row(row: Mapping[str, Any], line: Line) -> Candidate:
    query, passage = field_as_id(row, QUERY_FIELDS), field_as_id(row, PASSAGE_FIELDS)
    by_rank = row.get("score") is None
    value = row.get("rank" if by_rank else "score")
    if not query or not passage or not isinstance(value, (int, float)) or isinstance(value, bool):
        raise DataFileError(f"{line.where}: expected {RUN_FORMS}, got {shown(line.text)}")
    score = _finite(value, line)
    return Candidate(checked_id(query, line), checked_id(passage, line), -score if by_rank else score, by_rank)


def _finite(score: str | float, line: Line) -> float:
    try:
        value = float(score)
    except (ValueError, OverflowError):
        raise DataFileError(f"{line.where}: the score {shown(str(score))} is not a number") from None
    if not math.isfinite(value):
        raise DataFileError(f"{line.where}: the score {value} orders nothing; give finite scores")
    return value


def read_qrels(given: Given) -> Qrels:
    """Read relevance judgments. Raises DataFileError for a repeated passage of a query, and for a grade beyond `MAX_GRADE`."""
    qrels: Qrels = {}
    for line in Source.of(given).lines():
        fields = line.text.split()
        if fields == BEIR_HEADER and not qrels:
            continue
        try:
            query, passage, relevance = fields if len(fields) == 3 else [*fields[:1], *fields[2:]]
            grade = int(relevance)
        except ValueError:
            raise DataFileError(f"{line.where}: expected {QREL_FORMS}, got {shown(line.text)}") from None
        if abs(grade) > MAX_GRADE:
            raise DataFileError(
                f"{line.where}: the relevance {shown(relevance)} is no grade; give whole numbers from -{MAX_GRADE} to {MAX_GRADE}"
            )
        judged = qrels.setdefault(query, {})
        if passage in judged:
            raise DataFileError(f"{line.where}: passage {passage} comes a second time for query {query}")
        judged[passage] = grade
    if not qrels:
        raise DataFileError(f"{given} holds no judgments")
    return qrels


def line_of(source: Source, query: str, passage: str | None = None) -> int:
    """Return the number of the first line of a run or of qrels with this query, and this passage if given; 0 if none has it."""
    for line in source.lines():
        row = json_object(line.text)
        fields = line.text.split()
        if row is not None:
            found = field_as_id(row, QUERY_FIELDS), field_as_id(row, PASSAGE_FIELDS)
        else:
            found = fields[0], fields[1 if len(fields) == 3 else 2]
        if found[0] == query and passage in (None, found[1]):
            return line.number
    return 0


def read_pairs(given: Given) -> list[tuple[str, str]]:
    """Read `query \t passage` lines. Raises DataFileError for other lines, and for a file whose first column holds ids."""
    source = Source.of(given)
    pairs = []
    for line in source.lines():
        query, tab, passage = line.text.partition("\t")
        if not tab:
            said = f"{shown(line.text)}, which is JSON" if is_json([line.text]) else shown(line.text)
            raise DataFileError(f"{line.where}: expected `query <tab> passage`, got {said}")
        pairs.append((query, passage))
    check_columns({1 + passage.count("\t") for _, passage in pairs}, source, "`query <tab> passage`")
    queries = {query for query, _ in pairs}
    if len(queries) == len(pairs) >= FEW and all(ID.fullmatch(query) for query in queries):
        raise DataFileError(
            f"{source}: the first column is another word with digits in each of the {len(pairs)} lines, as in a file of "
            "`id <tab> text`; a file of pairs has a query's text there"
        )
    return pairs


def read_candidates(queries: Given, run: Given, *, depth: int | None = None) -> tuple[dict[str, str], Run]:
    """Read queries and a run, and keep the best `depth` passages of each query, in trec_eval's order.

    Raises DataFileError for a query of the run that the queries lack. Raises OptionError for a `depth` if every query's scores
    are all equal, since then no passages are the best.
    """
    queries, run = Source.of(queries), Source.of(run)
    query_texts, candidates = read_texts(queries), read_run(run)
    for query in candidates:
        if query not in query_texts:
            raise DataFileError(f"{run}: query {query} is not in {queries}")
    if depth is None or all(len(scores) <= depth for scores in candidates.values()):
        return query_texts, candidates
    if all(len(set(scores.values())) == 1 for scores in candidates.values()):
        raise OptionError(
            f"--depth {depth}: the scores in {run} are all alike, so there are no best {depth}; leave --depth out"
        )
    best = {query: {name: scores[name] for name in ranked(scores)[:depth]} for query, scores in candidates.items()}
    return query_texts, best


def read_collection(
    queries: Given, passages: Given, run: Given, *, depth: int | None = None
) -> tuple[dict[str, str], dict[str, str], Run]:
    """Read queries, a run, and the passages that the run names. See `read_candidates` for `depth`.

    Raises DataFileError for an id of the run that the other files lack.
    """
    passages, run = Source.of(passages), Source.of(run)
    query_texts, candidates = read_candidates(queries, run, depth=depth)
    wanted = {passage for scores in candidates.values() for passage in scores}
    passage_texts = read_texts(passages, only=wanted)
    for query, scores in candidates.items():
        missing = [passage for passage in scores if passage not in passage_texts]
        if missing:
            raise DataFileError(
                f"{run}: {len(missing)} passage(s) of query {query} are not in {passages}, such as {missing[0]}"
            )
    return query_texts, passage_texts, candidates


def write_run(file: IO[str], query: str, scores: Mapping[str, float], *, tag: str) -> None:
    """Write one query's passages to a run, best first, with scores at full precision.

    Ties are broken by passage id, descending, as in trec_eval, so that the rank column is the order that it evaluates.
    """
    for rank, passage in enumerate(ranked(scores), start=1):
        file.write(f"{query} Q0 {passage} {rank} {float(scores[passage])!r} {tag}\n")


def ranked(scores: Mapping[str, float]) -> Sequence[str]:
    """Return passage ids, best score first, and ties by id in descending order. As in trec_eval, scores that are equal in 32 bits
    are ties."""
    with np.errstate(over="ignore"):  # beyond 32 bits is infinite
        rounded = np.fromiter(scores.values(), dtype=np.float64, count=len(scores)).astype(np.float32).tolist()
    return [passage for _, passage in sorted(zip(rounded, scores, strict=True), reverse=True)]
