"""`Evaluation`: the result of `crossrt evaluate`, which is printed and stored as JSON."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..calibration.paired_difference import PairedDifference
from ..engine.text.truncation import Truncation
from ..measurement.provenance import Provenance
from ..measurement.stored_result import STRICT, read_stored
from .agreement import TOP, Agreement

SCHEMA = 1
KIND = "crossrt evaluation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """One row: the ranking of a model, or the original order of the candidates, which has no bundle and no run.

    `means` are over the queries, by measure. `changes` are the differences from the baseline, None for the baseline itself. `run`
    names the TREC run beside the result. `method` says how an exact ranking or a cascade ranks, and is None if one model scores
    all candidates. `model` is the model that decides the final order. `agreement` compares the best ten with the baseline's.
    `pairs_per_s` is the speed while the run was made; the rows did not take turns, so these speeds are not compared. `truncation`
    says how many pairs were cut to `max_length` tokens.
    """

    label: str
    means: Mapping[str, float]
    changes: Mapping[str, PairedDifference] | None
    model: str | None = None
    bundle_sha256: str | None = None
    precision: str | None = None
    runs_on: str | None = None
    max_length: int | None = None
    run: Provenance | None = None
    method: str | None = None
    agreement: Agreement | None = None
    pairs_per_s: float | None = None
    truncation: Truncation | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What was evaluated, on which machine, and how well each model ranked. It holds no texts and no paths."""

    __pydantic_config__: ClassVar = STRICT

    schema: int = SCHEMA
    kind: str = KIND
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    commit: str
    collection: str
    description: Sequence[str]
    sources: Mapping[str, Provenance]
    queries: int
    unanswered: int
    pairs: int
    depth: int | None
    limit: int | None
    measures: Sequence[str]
    baseline: str
    rankings: Sequence[Ranking]

    def to_json(self) -> str:
        """Return indented JSON, which `read` turns into an equal evaluation."""
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, path: Path) -> "Evaluation":
        """Read what `to_json` wrote. Raises DataFileError, naming the file, for other content or another schema."""
        return read_stored(cls, path, kind=KIND, schema=SCHEMA, command="crossrt evaluate")

    def __str__(self) -> str:
        """Return a table: for each measure a row per ranking, with its difference from the baseline."""
        width = max(len(ranking.label) for ranking in self.rankings)
        first = max(len(measure) for measure in self.measures)
        lines = [*self.description, f"{'':<{first}}  {'':<{width}}    mean  difference  95 % interval"]
        for measure in self.measures:
            head = measure
            for ranking in self.rankings:
                line = f"{head:<{first}}  {ranking.label:<{width}}  {ranking.means[measure]:.4f}"
                if ranking.changes is None:
                    lines.append(f"{line}    baseline")
                else:
                    change = ranking.changes[measure]
                    lines.append(f"{line}     {change.difference:+.4f}  {change.low:+.4f} to {change.high:+.4f}")
                head = ""
        return "\n".join([*lines, *self._tops_and_speeds(width)])

    def _tops_and_speeds(self, width: int) -> list[str]:
        """Return the lines of a table: each row's agreement with the baseline, its speed and its truncation."""
        heads = (f"top {TOP} kept", "the same list", "pairs/s", "pairs cut")
        lines = ["  ".join([" " * width, *heads]).rstrip()]
        for ranking in self.rankings:
            if ranking.run is None:
                continue
            agreement, cut = ranking.agreement, ranking.truncation
            cells = (
                ("baseline" if ranking.label == self.baseline else "-")
                if agreement is None
                else f"{agreement.kept:.4f}",
                "" if agreement is None else f"{agreement.same:.1%}",
                "-" if ranking.pairs_per_s is None else f"{ranking.pairs_per_s:,.0f}",
                "-" if cut is None else f"{cut.cut / cut.pairs:.1%}" if cut.cut else "none",
            )
            aligned = (cell.rjust(len(head)) for cell, head in zip(cells, heads, strict=True))
            lines.append("  ".join([ranking.label.ljust(width), *aligned]))
        return lines
