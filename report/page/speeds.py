"""The section of one result of `crossrt bench`."""

from collections.abc import Iterator, Mapping, Sequence

from ...speed.result.speeds import Speed, Speeds
from ..charts.curves import curve_chart
from ..charts.latencies import latency_chart
from ..charts.lengths import length_chart
from ..charts.logits import logit_chart
from ..charts.padding import padding_chart
from ..charts.rows import ChartRow
from ..numbers import percent, rate
from ..row import Row
from .cells import place_of, processor_of, quantiles_of, spread_cell
from .section import Figure, Section
from .speed_tables import ceilings_table, details_table, differences_table
from .table import Cell, Column, Table


def speed_section(name: str, file: str, speeds: Speeds, rows: Sequence[Row]) -> Section:
    """Return the section of the result in `file`. `rows` are the rows of the overview that this result measured."""
    fast = [(row, row.speed) for row in rows if row.speed is not None]
    workload = speeds.workload
    figures = [*_latencies(name, fast)]
    padded = [(_chart_row(row), speed.padding) for row, speed in fast if speed.padding is not None]
    if padded:
        figures.append(
            Figure(
                title="Padding waste",
                reading="The share of computed tokens that is padding, in requests of 100. It is counted, not timed, and so "
                "has no spread.",
                pictures=[padding_chart(padded, name=f"{name}-padding")],
            )
        )
    figures += _scatters(name, {row.name: speed for row, speed in fast})
    if workload.histogram:
        figures.append(
            Figure(
                title="Lengths of the pairs",
                reading="What there is to pad: pairs by their tokens, in steps of 16.",
                pictures=[length_chart(workload, name=f"{name}-lengths")],
            )
        )
    figures += _curves(name, speeds)
    return Section(
        name=name,
        title=f"Speed, {file}",
        words=[
            f"On {processor_of(speeds.machine)}.",
            f"{workload.pairs:,} pairs of {workload.source}, {workload.mean_tokens:.1f} tokens on average; half have no more "
            f"than {workload.p50_tokens:g}, 99 % no more than {workload.p99_tokens:g}.",
            f"One and the same piece of work varied by {percent(speeds.noise)} % during the run, 95th percentile over the "
            "median: figures that differ by less say nothing.",
        ],
        tables=[details_table(fast), *([ceilings_table(speeds)] if speeds.ceilings else [])],
        figures=figures,
    )


def _latencies(name: str, fast: Sequence[tuple[Row, Speed]]) -> Iterator[Figure]:
    for passages in sorted({latency.passages for _, speed in fast for latency in speed.latencies}):
        found = [(row, latency) for row, speed in fast for latency in speed.latencies if latency.passages == passages]
        yield Figure(
            title=f"Latency, one query with {passages:,} passage{'s' if passages > 1 else ''}",
            reading="Left is faster, and a short line is steady: half of the requests take no longer than the mark, 95 % and "
            "99 % no longer than the ticks.",
            pictures=[
                latency_chart([(_chart_row(row), latency) for row, latency in found], name=f"{name}-latency-{passages}")
            ],
            table=Table(
                label="Latencies",
                columns=[
                    Column(title="Row", number=False),
                    *(Column(title=title, unit="ms") for title in ("p50", "p95", "p99")),
                    Column(title="Requests"),
                ],
                rows=[
                    [
                        Cell(row.name, precision=row.precision),
                        *(Cell(rate(value)) for value in quantiles_of(latency)),
                        Cell(f"{latency.requests:,}"),
                    ]
                    for row, latency in found
                ],
            ),
        )


def _chart_row(row: Row) -> ChartRow:
    return ChartRow(group=row.group, precision=row.precision)


def _scatters(name: str, fast: Mapping[str, Speed]) -> Iterator[Figure]:
    for precision in sorted({speed.precision for speed in fast.values()}, key=place_of):
        found = {
            label: speed
            for label, speed in fast.items()
            if speed.precision == precision
            and speed.difference
            and speed.difference.reference
            and speed.difference.max_abs
        }
        if not found:
            continue  # this precision is the reference
        picture, shown, pairs = logit_chart(found, precision, name=f"{name}-parity-{precision}")
        yield Figure(
            title=f"Parity, {precision.upper()}",
            reading=(
                f"Each dot is a pair: on the line, its logit is the FP32 one. Below, by how much it differs; dashed, the largest "
                f"difference of all pairs that were measured. {shown:,} of {pairs:,} sampled pairs are drawn."
            ),
            pictures=[picture],
            table=differences_table(found),
        )


def _curves(name: str, speeds: Speeds) -> Iterator[Figure]:
    for place, axis in enumerate(dict.fromkeys(curve.axis for curve in speeds.curves)):
        found = [curve for curve in speeds.curves if curve.axis == axis]
        yield Figure(
            title=f"Speed along {axis}",
            reading="Marks: the median, with a bar from the 5th to the 95th percentile. Dashed: the curve that was fitted; "
            + "; ".join(f"{curve.label}: {curve.fit}" for curve in found)
            + ".",
            pictures=[curve_chart(found, axis, name=f"{name}-curve-{place}")],
            table=Table(
                label=f"Speed along {axis}",
                columns=[
                    Column(title="Row", number=False),
                    Column(title=axis.capitalize()),
                    Column(title="Speed", unit="pairs/s"),
                    Column(title="Fitted", unit="pairs/s"),
                ],
                rows=[
                    [Cell(curve.label), Cell(f"{at:g}"), spread_cell(speed), Cell(rate(fitted))]
                    for curve in found
                    for at, speed, fitted in zip(curve.at, curve.pairs_per_s, curve.fitted, strict=False)
                ],
            ),
        )
