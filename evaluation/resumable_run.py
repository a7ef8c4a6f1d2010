"""`ResumableRun`: a TREC run that is written query by query and can be continued by a later process."""

import io
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..engine.errors import DataFileError
from ..engine.files.lock import open_own_file
from ..engine.files.publish import naming, replaced_text
from ..engine.files.record import read_json, record
from ..engine.files.trec import write_run
from ..engine.text.truncation import Truncation


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """Cost of a run's queries: `seconds` to rank `pairs`, and the truncation of pairs that were not scored in windows."""

    seconds: float = 0.0
    pairs: int = 0
    truncation: Truncation = field(default_factory=Truncation)

    def __add__(self, other: "Effort") -> "Effort":
        return Effort(
            seconds=self.seconds + other.seconds,
            pairs=self.pairs + other.pairs,
            truncation=self.truncation + other.truncation,
        )


NO_EFFORT = Effort()


@dataclass(frozen=True, slots=True, kw_only=True)
class _RunCheckpoint:
    """A checkpoint: the run's fingerprint, which the file calls `work`, and how many of its queries and bytes are valid."""

    work: Mapping[str, Any]
    queries: int
    bytes: int
    effort: Effort | None = None


class ResumableRun:
    """The run `target`, written one query at a time. The file gets this name once it holds `queries` queries.

    Until then it grows in a hidden file beside the target. After every query that file is flushed to disk, and then a checkpoint
    notes how much of it is valid. A later process can continue from there, however this one ended. The checkpoint stays when the
    run is finished, so that a finished run is not computed again, and continues when more queries are asked for.

    `fingerprint` is what the scores depend on, as JSON. An existing run with another one, or with more than `queries` queries, is
    refused with DataFileError unless `restart` deletes it.
    """

    def __init__(self, target: Path, *, fingerprint: Mapping[str, Any], queries: int, restart: bool = False) -> None:
        self.target = target
        self.queries = queries
        self.done = 0
        """Number of queries in the run."""
        self.effort: Effort | None = Effort()
        """Cost of these queries, or None for a run that was begun by an earlier version, which did not note it."""
        self._fingerprint = dict(fingerprint)
        self._size = 0
        self._partial = target.with_name(f".{target.name}.partial")
        self._checkpoint = target.with_name(f".{target.name}.checkpoint")
        if restart:
            for path in (self._checkpoint, self._partial, target):
                path.unlink(missing_ok=True)
        self._resume()

    @property
    def finished(self) -> bool:
        """Whether the run is complete and renamed to `target`."""
        return self.done == self.queries and self.target.exists()

    def append(self, query: str, scores: Mapping[str, float], *, tag: str, effort: Effort = NO_EFFORT) -> None:
        """Add the passages of a query, best first. They are on disk when this returns."""
        block = io.StringIO()
        write_run(block, query, scores, tag=tag)
        with (
            naming(self._partial),
            open(self._partial, "ab", opener=open_own_file) as file,
        ):
            self._size += file.write(block.getvalue().encode())
            file.flush()
            os.fsync(file.fileno())
        self.done += 1
        self.effort = None if self.effort is None else self.effort + effort
        self._write_checkpoint()

    def finish(self) -> None:
        """Rename the complete run to `target`."""
        assert self.done == self.queries
        if not self.target.exists():
            self._partial.replace(self.target)

    def _resume(self) -> None:
        try:
            checkpoint = record(_RunCheckpoint, read_json(self._checkpoint))
            work, done, size = checkpoint.work, checkpoint.queries, checkpoint.bytes
            if min(done, size) < 0:
                raise ValueError(f"{done} queries in {size} bytes")
        except FileNotFoundError:
            if self.target.exists():
                raise DataFileError(
                    f"{self.target} is already there, and no checkpoint says what of; give another --out, or --force to "
                    "replace it"
                ) from None
            self._partial.unlink(missing_ok=True)
            return
        except (OSError, ValueError) as error:
            raise DataFileError(
                f"{self._checkpoint} cannot be used ({error}); give --force to start anew, or another --out"
            ) from error
        other = [
            f"{name} was {_short(work.get(name))} and is {_short(self._fingerprint.get(name))}"
            for name in {**work, **self._fingerprint}
            if work.get(name) != self._fingerprint.get(name)
        ]
        if other:
            raise DataFileError(
                f"{self._checkpoint} is of another evaluation: {'; '.join(other)}. Give another --out, or --force to throw "
                f"away the {done} queries that it holds"
            )
        if done > self.queries:
            raise DataFileError(
                f"{self._checkpoint} holds {done} queries, and {self.queries} are asked for; give another --out, or --force "
                "to throw it away"
            )
        if self.target.exists():
            if self.target.stat().st_size != size:
                raise DataFileError(
                    f"{self.target} was altered after it was written; give --force to compute it again, or another --out"
                )
            if done < self.queries:
                self.target.replace(self._partial)
        elif not self._partial.is_file() or self._partial.stat().st_size < size:
            raise DataFileError(
                f"{self._partial} is gone or was cut, and {self._checkpoint} needs it; give --force to start anew"
            )
        if self._partial.is_file():
            with open(self._partial, "ab", opener=open_own_file) as file:
                file.truncate(size)  # drop what a killed process wrote after its last checkpoint
        self.done, self._size, self.effort = done, size, checkpoint.effort if done else Effort()

    def _write_checkpoint(self) -> None:
        with replaced_text(self._checkpoint) as file:
            checkpoint = _RunCheckpoint(work=self._fingerprint, queries=self.done, bytes=self._size, effort=self.effort)
            json.dump(asdict(checkpoint), file, indent=1)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) < 64 else f"{text[:8]}..."  # a sha256
