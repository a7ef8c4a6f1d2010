"""`Step`: how one artefact of an export is written, judged and recorded."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from ...engine.bundle.manifest import BundleModel
from ...engine.precision import Precision
from ..parity.report import ParityReport
from .context import ExportContext


class FailureStops(Enum):
    """When a failed check of an artefact stops the export, so that nothing is published."""

    ALWAYS = "always"
    UNLESS_KEEP_GOING = "unless keep_going"
    NEVER = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """The report on an artefact, and the manifest's entry for its precision once the artefact is recorded."""

    report: ParityReport
    model: BundleModel


def with_score_error(model: BundleModel, place: str, report: ParityReport) -> BundleModel:
    """Return the model with its score error at `place`, a CPU backend or `gpu`; unchanged if no ranking was judged."""
    if report.ranking is None:
        return model
    return replace(model, score_errors={**model.score_errors, place: report.ranking.score_error})


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """How one artefact of an export is written, judged and recorded.

    `run` writes and judges the artefact and returns the result, or None if the artefact cannot be made or judged here. The report
    is kept as `parity.NAME.json`. A failed artefact that does not stop the export is recorded with its failure. But if it is an
    `extra_file`, it is removed and left out of the manifest.

    The step runs if `precision` and `also`, if given, are exported and the step `after`, if given, has passed.
    """

    name: str
    precision: Precision
    run: Callable[[ExportContext], StepResult | None]
    failure_stops: FailureStops
    extra_file: str | None = None
    after: str | None = None
    also: Precision | None = None

    def is_due(self, context: ExportContext) -> bool:
        """Tell whether the step runs, given the steps that have passed so far."""
        wanted = {self.precision, self.also or self.precision} <= {*context.precisions}
        return wanted and (self.after is None or self.after in context.passed)

    def stops(self, *, keep_going: bool) -> bool:
        """Tell whether a failed check stops the export."""
        unless_told = self.failure_stops is FailureStops.UNLESS_KEEP_GOING and not keep_going
        return self.failure_stops is FailureStops.ALWAYS or unless_told

    def record(self, result: StepResult, context: ExportContext) -> None:
        """Keep the report, and also the artefact unless it is an extra file that failed."""
        builder = context.builder
        builder.write_text(f"parity.{self.name}.json", result.report.to_json())
        if result.report:
            context.passed.add(self.name)
        if self.extra_file is None or result.report:
            builder.models[self.precision.value] = result.model
        else:
            builder.remove(self.extra_file)
