"""Format figures as cells of a table, and facts as text."""

from collections.abc import Mapping
from typing import Any

from ...calibration.paired_difference import PairedDifference
from ...engine.precision import Precision
from ...speed.result.speeds import Difference, Latency, Speed, Spread
from ..numbers import error, quality, rate, signed
from .table import EMPTY, Cell

PRECISIONS = [precision.value for precision in Precision]


def processor_of(machine: Mapping[str, Any]) -> str:
    """Return the processor or GPU, and the number of usable processors."""
    name = str(machine.get("gpu") or machine.get("processor") or "an unnamed machine")
    return f"{name}, {machine['usable_cpus']} processors" if "usable_cpus" in machine else name


def machine_of(machine: Mapping[str, Any]) -> str:
    """Return everything that is known about a machine."""

    def said(value: Any) -> str:
        return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)

    return "; ".join(
        said(value) if key == "processor" else f"{key.replace('_', ' ')} {said(value)}"
        for key, value in machine.items()
    )


def versions_of(versions: Mapping[str, str]) -> str:
    """Return packages with their versions."""
    return ", ".join(f"{package}\N{NO-BREAK SPACE}{version}" for package, version in versions.items())


def place_of(precision: str) -> int:
    """Return a precision's position in the usual order."""
    return PRECISIONS.index(precision) if precision in PRECISIONS else len(PRECISIONS)


def quantiles_of(latency: Latency) -> tuple[float, float, float]:
    """Return p50, p95 and p99 in milliseconds."""
    return latency.p50_ms, latency.p95_ms, latency.p99_ms


def number_cell(value: float | None, written: Any) -> Cell:
    """Return a number formatted by `written`, or an empty cell."""
    return EMPTY if value is None else Cell(written(value))


def spread_cell(spread: Spread | None) -> Cell:
    """Return a median with its 5th and 95th percentile."""
    return EMPTY if spread is None else Cell(rate(spread.median), between((spread.p5, spread.p95), rate))


def difference_cells(difference: Difference | None) -> list[Cell]:
    """Return the largest and the mean difference, and the top-10 overlap."""
    if difference is None:
        return [EMPTY] * 3
    overlap = number_cell(difference.top10_overlap, "{:.3f}".format)
    return [Cell(error(difference.max_abs)), Cell(error(difference.mean_abs)), overlap]


def speed_cell(speed: Speed) -> Cell:
    """Return pairs per second, or `failed` with the reason."""
    return Cell("failed", speed.failed, words=True) if speed.failed else spread_cell(speed.pairs_per_s)


def between(ends: tuple[float, float] | None, written: Any) -> str:
    """Return a range as text, formatted by `written`."""
    return "" if ends is None else f"{written(ends[0])} to {written(ends[1])}"


def quality_cell(measure: str, means: Mapping[str, float], changes: Mapping[str, PairedDifference] | None) -> Cell:
    """Return a mean with its change from the baseline."""
    mean = quality(means[measure])
    return (
        Cell(mean, "baseline")
        if changes is None
        else Cell(mean, interval(changes[measure]).strip().replace(" (", "\n("))
    )


def interval(change: PairedDifference | None) -> str:
    """Return a change with its interval as text."""
    return "" if change is None else f" {signed(change.difference)} ({signed(change.low)} to {signed(change.high)})"
