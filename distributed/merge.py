"""`merged` writes the parts of a job as one run."""

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..engine.errors import DataFileError
from ..engine.files.publish import STANDARD_OUTPUT, replaced_text
from ..engine.files.run_output import run_output
from ..engine.text.truncation import Truncation
from .folder import PARTS, Folder
from .part import Part
from .summary import Failure


@dataclass(slots=True)
class Merged:
    """Totals of the merged parts."""

    written: int = 0
    failures: int = 0
    truncation: Truncation = field(default_factory=Truncation)
    backends: set[str] = field(default_factory=set)


def merged(folder: Folder, names: Iterable[str], out: Path, *, tag: str, top_k: int | None, skip: bool) -> Merged:
    """Write the parts with these names, in this order, as `crossrt rerank` writes a run. Holds one part in memory at a time.

    Passages that were set aside are written to `OUT.errors.jsonl`. Raises DataFileError for such passages unless `skip` is set,
    and for a part that is missing or damaged.
    """
    found = Merged()
    failures: list[Failure] = []
    with run_output(out, tag=tag) as add:
        for query, scores in _lists(_parts(folder, names, found, failures)):
            best = sorted(scores, key=lambda docno: -scores[docno])[
                :top_k
            ]  # the sort is stable: ties stay in the run's order, as in `rank`
            if best:
                add(query, {docno: scores[docno] for docno in best})
            found.written += len(best)
        if failures and not skip:
            first = failures[0]
            raise DataFileError(
                f"{folder.place} has {len(failures)} passage(s) that were set aside, such as {first.doc_id} of query "
                f"{first.query_id} ({first.error}); give --on-error skip, or another folder of parts"
            )
    found.failures = len(failures)
    if out != STANDARD_OUTPUT:
        _write_failures(failures, errors_file(out))
    return found


def errors_file(out: Path) -> Path:
    """Return the path of the file that lists the passages that were set aside."""
    return out.with_name(f"{out.name}.errors.jsonl")


def _parts(folder: Folder, names: Iterable[str], found: Merged, failures: list[Failure]) -> Iterator[Part]:
    for name in names:
        try:
            part = Part.from_parquet(folder.read(f"{PARTS}/{name}"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataFileError(
                f"{folder.place}/{PARTS}/{name} cannot be read ({error}); remove it, and run the same command again"
            ) from error
        found.truncation += part.truncation
        if part.scores:
            found.backends.add(part.backend)
        failures += part.failures
        yield part


def _lists(parts: Iterable[Part]) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield each query with all its scores. The pieces of a list are consecutive and are joined."""
    query: str | None = None
    scores: dict[str, float] = {}
    for part in parts:
        for qid, piece in part.scores:
            if qid != query and query is not None:
                yield query, scores
                scores = {}
            query = qid
            scores.update(piece)
    if query is not None:
        yield query, scores


def _write_failures(failures: list[Failure], path: Path) -> None:
    if not failures:
        with suppress(FileNotFoundError):
            path.unlink()
        return
    with replaced_text(path) as file:
        file.writelines(json.dumps(asdict(failure), ensure_ascii=False) + "\n" for failure in failures)
