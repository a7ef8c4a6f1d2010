"""Reads and writes the files of retrieval experiments: TSV texts, TREC runs, qrels, and files of pairs.

Every reader raises DataFileError, naming the file and the line, for a line that it cannot use.
"""

import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from ..errors import DataFileError, OptionError

FEW = 20
"""Fewest lines that `read_pairs` judges by their first column: fewer could begin with words that look like ids by chance."""
ID = re.compile(r"\S*\d\S*")
"""A text that looks like an id: one word with a digit."""

NO_TEXT = {
    b"\x1f\x8b": "compressed by gzip: decompress it first, as with gunzip",
    b"BZh91AY": "compressed by bzip2: decompress it first, as with bunzip2",
    b"\xfd7zXZ\0": "compressed by xz: decompress it first, as with unxz",
    b"\x28\xb5\x2f\xfd": "compressed by zstd: decompress it first, as with unzstd",
    b"PK\x03\x04": "a zip archive: unpack it first, and give a file of it",
    b"PAR1\x15": "a Parquet file: write its columns as lines with tabs first",
    b"ARROW1\0\0": "an Arrow file: write its columns as lines with tabs first",
    b"SQLite format 3\0": "a SQLite database: write its columns as lines with tabs first",
    b"\xff\xfe": "text in UTF-16: convert it first, as with iconv -f UTF-16 -t UTF-8",
    b"\xfe\xff": "text in UTF-16: convert it first, as with iconv -f UTF-16 -t UTF-8",
}
"""First bytes of common files that are not plain text -> what to do."""

Run = dict[str, dict[str, float]]
"""Query id -> passage id -> score, in the file's order."""

Qrels = dict[str, dict[str, int]]
"""Query id -> passage id -> relevance."""


def read_texts(path: Path, *, only: Collection[str] | None = None) -> dict[str, str]:
    """Read `id \\t text` lines; with `only`, keep just these ids. Raises DataFileError for a repeated id."""
    texts: dict[str, str] = {}
    seen: set[str] = set()
    tabs: set[int] = set()
    for number, line in _lines(path):
        name, tab, text = line.partition("\t")
        if not tab or not name:
            raise DataFileError(f"{path}, line {number}: expected `id <tab> text`, got {_shown(line)}")
        if name in seen:
            raise DataFileError(f"{path}, line {number}: the id {name} comes a second time; ids must be unique")
        seen.add(name)
        tabs.add(line.count("\t"))
        if only is None or name in only:
            texts[name] = text
    check_columns(tabs, path, "`id <tab> text`")
    return texts


def read_run(path: Path) -> Run:
    """Read a TREC run: `query Q0 passage rank score tag`. Raises DataFileError for a repeated passage of a query."""
    run: Run = {}
    for number, line in _lines(path):
        query, passage, score = run_fields(line, number, path)
        scores = run.setdefault(query, {})
        if passage in scores:
            raise DataFileError(f"{path}, line {number}: passage {passage} comes a second time for query {query}")
        scores[passage] = score
    return run


def run_fields(line: str, number: int, path: Path) -> tuple[str, str, float]:
    """Return query, passage and score of a TREC run's line.

    Raises DataFileError, naming path and line number, for a line of another form and for a score that is not finite.
    """
    fields = line.split()
    if len(fields) != 6:
        raise DataFileError(
            f"{path}, line {number}: expected 6 fields, `query Q0 passage rank score tag`, got {_shown(line)}"
        )
    query, _, passage, _, score, _ = fields
    try:
        value = float(score)
    except ValueError:
        raise DataFileError(f"{path}, line {number}: the score {_shown(score)} is not a number") from None
    if not math.isfinite(value):
        raise DataFileError(f"{path}, line {number}: the score {value} orders nothing; give finite scores")
    return query, passage, value


def read_qrels(path: Path) -> Qrels:
    """Read TREC qrels: `query 0 passage relevance`. Raises DataFileError for a repeated passage of a query."""
    qrels: Qrels = {}
    for number, line in _lines(path):
        try:
            query, _, passage, relevance = line.split()
            grade = int(relevance)
        except ValueError:
            raise DataFileError(
                f"{path}, line {number}: expected `query 0 passage relevance`, got {_shown(line)}"
            ) from None
        judged = qrels.setdefault(query, {})
        if passage in judged:
            raise DataFileError(f"{path}, line {number}: passage {passage} comes a second time for query {query}")
        judged[passage] = grade
    return qrels


def line_of(path: Path, query: str, passage: str | None = None) -> int:
    """Return the number of the first line of a run or of qrels with this query and passage, if given; 0 without one."""
    for number, line in _lines(path):
        fields = line.split()
        if fields[0] == query and passage in (None, fields[2]):
            return number
    return 0


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """Read `query \\t passage` lines. Raises DataFileError for other lines, and for a file whose first column holds ids."""
    pairs = []
    for number, line in _lines(path):
        query, tab, passage = line.partition("\t")
        if not tab:
            raise DataFileError(f"{path}, line {number}: expected `query <tab> passage`, got {_shown(line)}")
        pairs.append((query, passage))
    check_columns({1 + passage.count("\t") for _, passage in pairs}, path, "`query <tab> passage`")
    queries = {query for query, _ in pairs}
    if len(queries) == len(pairs) >= FEW and all(ID.fullmatch(query) for query in queries):
        raise DataFileError(
            f"{path}: the first column is another word with digits in each of the {len(pairs)} lines, as in a file of "
            "`id <tab> text`; a file of pairs has a query's text there"
        )
    return pairs


def read_candidates(queries: Path, run: Path, *, depth: int | None = None) -> tuple[dict[str, str], Run]:
    """Read queries and a run, and keep the best `depth` passages of each query, in trec_eval's order.

    Raises DataFileError for a query of the run that the queries lack. Raises OptionError for a `depth` where all scores of the
    run are equal, since then no passages are the best.
    """
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
    queries: Path, passages: Path, run: Path, *, depth: int | None = None
) -> tuple[dict[str, str], dict[str, str], Run]:
    """Read queries, a run, and the passages that the run names. See `read_candidates` for `depth`.

    Raises DataFileError for an id of the run that the other files lack.
    """
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
    """Return passage ids, best score first, ties by id descending."""
    return sorted(scores, key=lambda passage: (scores[passage], passage), reverse=True)


def check_columns(tabs: Collection[int], path: Path | str, form: str) -> None:
    """Raise DataFileError for a file whose lines all have the same number of tabs, above 1: it has more columns than `form`.

    `tabs` are the numbers of tabs that occur. Different numbers mean texts that contain tabs; these are scored as they are.
    """
    if len(tabs) == 1 and max(tabs) > 1:
        raise DataFileError(
            f"{path}: every line has {max(tabs) + 1} columns, and {form} has 2; leave out the others, with `cut -f 1,3` for the "
            "first and the third, or join with a space what is to be scored together"
        )


def is_json(lines: Sequence[str]) -> bool:
    """Tell whether these lines are a JSON document, or JSONL, whose lines are objects."""
    if not lines[0].lstrip().startswith(("{", "[")):
        return False

    def parsed(text: str) -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return None

    return isinstance(parsed(lines[0]), dict) or parsed("\n".join(lines)) is not None


def text_lines(stream: Iterable[bytes], path: Path | str, *, first: int = 1) -> Iterator[tuple[int, str]]:
    """Yield the line number and the text of each line that is not empty, without its line end.

    `first` is the number of the stream's first line. Raises DataFileError for a line that is not UTF-8.
    """
    for number, raw in enumerate(stream, start=first):
        line = _decoded(raw, number, path)
        if line:
            yield number, line


def located_lines(path: Path) -> Iterator[tuple[int, int, str]]:
    """Yield the line number, the byte offset and the text of each line of a file that is not empty, as `text_lines` does.

    Raises DataFileError also for a file that cannot be read or is empty.
    """
    empty, position = True, 0
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                line = _decoded(raw, number, path)
                if line:
                    empty = False
                    yield number, position, line
                position += len(raw)
    except OSError as error:
        raise DataFileError(f"{path} cannot be read ({error.strerror})") from error
    if empty:
        raise DataFileError(f"{path} is empty")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, _, line in located_lines(path))


def _decoded(raw: bytes, number: int, path: Path | str) -> str:
    if number == 1:
        for beginning, kind in NO_TEXT.items():
            if raw.startswith(beginning):
                raise DataFileError(f"{path} is {kind}; this reads plain text in UTF-8")
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DataFileError(
            f"{path}, line {number}: byte {error.start + 1} is not valid UTF-8; convert the file to UTF-8 first"
        ) from None


def _shown(line: str) -> str:
    shown = repr(line if len(line) <= 60 else line[:57] + "...")
    return f"{shown}, which is JSON" if is_json([line]) else shown
