"""Figures as cells of a table, and facts as text."""

from collections.abc import Mapping
from typing import Any

from ...calibration.paired_difference import PairedDifference
from ...engine.precision import Precision
from ...speed.result.speeds import Difference, Latency, Speed, Spread
from ..numbers import error, quality, rate, signed
from .table import EMPTY, Cell

PRECISIONS = [precision.value for precision in Precision]


def processor_of(machine: Mapping[str, Any]) -> str:
    """The processor or GPU, and the number of usable processors."""
    name = str(machine.get("gpu") or machine.get("processor") or "an unnamed machine")
    return f"{name}, {machine['usable_cpus']} processors" if "usable_cpus" in machine else name


def machine_of(machine: Mapping[str, Any]) -> str:
    """Everything that is known about a machine."""

    def said(value: Any) -> str:
        return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)

    return "; ".join(
        said(value) if key == "processor" else f"{key.replace('_', ' ')} {said(value)}"
        for key, value in machine.items()
    )


def versions_of(versions: Mapping[str, str]) -> str:
    """Packages with their versions."""
    return ", ".join(f"{package}\N{NO-BREAK SPACE}{version}" for package, version in versions.items())


def place_of(precision: str) -> int:
    """A precision's position in the usual order."""
    return PRECISIONS.index(precision) if precision in PRECISIONS else len(PRECISIONS)


def quantiles_of(latency: Latency) -> tuple[float, float, float]:
    """p50, p95 and p99 in ms."""
    return latency.p50_ms, latency.p95_ms, latency.p99_ms


def number_cell(value: float | None, written: Any) -> Cell:
    """A number in the format of `written`, or an empty cell."""
    return EMPTY if value is None else Cell(written(value))


def spread_cell(spread: Spread | None) -> Cell:
    """A median with its 5th and 95th percentile."""
    return EMPTY if spread is None else Cell(rate(spread.median), between((spread.p5, spread.p95), rate))


def difference_cells(difference: Difference | None) -> list[Cell]:
    """The largest and the mean difference, and the top-10 overlap."""
    if difference is None:
        return [EMPTY] * 3
    overlap = number_cell(difference.top10_overlap, "{:.3f}".format)
    return [Cell(error(difference.max_abs)), Cell(error(difference.mean_abs)), overlap]


def speed_cell(speed: Speed) -> Cell:
    """Pairs a second, or that it failed."""
    return Cell("failed", speed.failed, words=True) if speed.failed else spread_cell(speed.pairs_per_s)


def between(ends: tuple[float, float] | None, written: Any) -> str:
    """Two ends as text."""
    return "" if ends is None else f"{written(ends[0])} to {written(ends[1])}"


def quality_cell(measure: str, means: Mapping[str, float], changes: Mapping[str, PairedDifference] | None) -> Cell:
    """A mean, with its change from the baseline."""
    mean = quality(means[measure])
    return (
        Cell(mean, "baseline")
        if changes is None
        else Cell(mean, interval(changes[measure]).strip().replace(" (", "\n("))
    )


def interval(change: PairedDifference | None) -> str:
    """A change with its interval."""
    return "" if change is None else f" {signed(change.difference)} ({signed(change.low)} to {signed(change.high)})"
