"""The first section: quality and speed of every bundle in every precision."""

from collections.abc import Iterator, Sequence

from ...engine.precision import Precision
from ...evaluation.result import Evaluation
from ...speed.result.speeds import Speed, Speeds
from ..charts.pareto import Point, pareto
from ..numbers import error, percent, quality, rate
from ..results import Results
from ..row import Row, short
from .cells import difference_cells, interval, number_cell, quality_cell, speed_cell, spread_cell
from .section import Figure, Section
from .table import EMPTY, Cell, Column, Table

REQUEST = 100
"""Number of passages in the request whose latency the first table shows."""


def overview_section(results: Results, rows: Sequence[Row]) -> Section:
    """Return the section, with a row for everything that was evaluated or timed."""
    figures: list[Figure] = []
    for place, (_, evaluation) in enumerate(results.evaluations):
        for other, (_, speeds) in enumerate(results.speeds):
            figures += _measured_pareto(f"pareto-{other}-{place}", rows, place, evaluation, speeds)
    for other, (_, speeds) in enumerate(results.speeds):
        figures += _published_pareto(f"pareto-{other}-card", rows, speeds)
    words = [
        "One row is one model in one precision by one backend. Speed is from text to score; in small its 5th to 95th percentile. "
        "Differences of logits are from the same bundle's FP32."
    ]
    if results.evaluations:
        words.append(
            "Quality is a mean over queries; in small the difference from the baseline with its 95 % interval."
        )
    return Section(
        name="all",
        title="Quality, speed and error",
        words=words,
        tables=[_main(results, rows)],
        figures=figures,
        figures_first=True,
    )


def _main(results: Results, rows: Sequence[Row]) -> Table:
    evaluations = [evaluation for _, evaluation in results.evaluations]
    columns = [
        Column(title="Model and precision", number=False),
        *(Column(title=evaluation.measures[0], unit=evaluation.collection) for evaluation in evaluations),
        Column(title="nDCG@10", unit="×100, the card's"),
        Column(title="Speed", unit="pairs/s"),
        Column(title="Of the first", unit="ratio"),
        Column(title="Largest difference", unit="logit, mean below"),
        Column(title="Top-10 overlap"),
        Column(title="Latency p50", unit=f"ms, {REQUEST} passages"),
        Column(title="Padding", unit="%"),
    ]
    return Table(
        label="Quality, speed and error", columns=columns, rows=[_main_row(evaluations, row) for row in rows]
    ).filled()


def _main_row(evaluations: Sequence[Evaluation], row: Row) -> list[Cell]:
    speed = row.speed
    cells = [Cell(row.name, precision=row.precision)]
    cells += [
        EMPTY if ranking is None else quality_cell(evaluation.measures[0], ranking.means, ranking.changes)
        for evaluation, ranking in zip(evaluations, row.rankings, strict=True)
    ]
    if speed is None:
        return [*cells, *[EMPTY] * 7]
    published = (speed.published or {}).get("ndcg10")
    latency = next((latency for latency in speed.latencies if latency.passages == REQUEST), None)
    return [
        *cells,
        number_cell(published, "{:.2f}".format),
        speed_cell(speed),
        spread_cell(speed.ratio),
        *_difference_cells(speed),
        EMPTY
        if latency is None
        else Cell(
            rate(latency.p50_ms),
            f"p95 {rate(latency.p95_ms)}\np99 {rate(latency.p99_ms)}",
        ),
        number_cell(speed.padding, percent),
    ]


def _difference_cells(speed: Speed) -> list[Cell]:
    """Return the largest difference with the mean below it, and the top-10 overlap. Other tables have one column more."""
    largest, mean, overlap = difference_cells(speed.difference)
    return [largest if largest == EMPTY else Cell(largest.text, f"mean {mean.text}"), overlap]


def _measured_pareto(
    name: str, rows: Sequence[Row], place: int, evaluation: Evaluation, speeds: Speeds
) -> Iterator[Figure]:
    measure = evaluation.measures[0]
    points = []
    for row in rows:
        ranking = row.rankings[place]
        if row.measured is not speeds or row.speed is None or row.speed.pairs_per_s is None or ranking is None:
            continue
        change = (ranking.changes or {}).get(measure)
        mean = ranking.means[measure]
        baseline = mean if change is None else change.reference
        points.append(
            Point(
                model=row.group,
                precision=row.precision,
                speed=row.speed.pairs_per_s,
                quality=mean,
                low=None if change is None else baseline + change.low,
                high=None if change is None else baseline + change.high,
                says=f"{row.name}: {measure} {quality(mean)}{interval(change)}; {_said(row.speed)}",
            )
        )
    if not points:
        return
    levels = {ranking.label: ranking.means[measure] for ranking in evaluation.rankings if ranking.bundle_sha256 is None}
    yield Figure(
        title=f"{measure} against speed, {evaluation.collection}",
        reading=(
            "Up is better, right is faster; no point is both faster and better than one on the broad line. Bars along: 5th to "
            "95th percentile of the speed. Upright bars: 95 % interval of the difference from "
            f"{evaluation.baseline}, which has none itself. Candidates are as they came. Values are in the table below."
        ),
        pictures=[
            *pareto(points, name=name, measure=f"{measure}, {evaluation.queries} queries", levels=levels).values()
        ],
    )


def _published_pareto(name: str, rows: Sequence[Row], speeds: Speeds) -> Iterator[Figure]:
    # Only the fastest backend of each model and precision. With every backend there would be too many labels to read.
    fastest: dict[tuple[str, str], Point] = {}
    for row in rows:
        speed = row.speed
        if row.measured is not speeds or speed is None or speed.pairs_per_s is None:
            continue
        ndcg10 = (speed.published or {}).get("ndcg10")
        before = fastest.get((row.model, row.precision))
        if ndcg10 is None or (before is not None and before.speed.median >= speed.pairs_per_s.median):
            continue
        fastest[row.model, row.precision] = Point(
            model=short(row.model),
            precision=row.precision,
            speed=speed.pairs_per_s,
            quality=ndcg10,
            known=row.precision == Precision.FP32.value,
            says=f"{row.name}: published nDCG@10 {ndcg10:.2f}; {_said(speed)}",
        )
    points = list(fastest.values())
    if points:
        yield Figure(
            title="Published nDCG@10 against measured speed",
            reading=(
                "The quality is what each model's card says of its FP32 weights on TREC DL 2019, without an interval; it was not "
                "measured here. Hollow marks are other precisions, drawn at the height of FP32. Each model has its fastest "
                "backend in each precision; the table below has the others. Horizontal bars: 5th to 95th percentile of the "
                "speed. No point is both faster and better than one on the broad line."
            ),
            pictures=[*pareto(points, name=name, measure="published nDCG@10, ×100").values()],
        )


def _said(speed: Speed) -> str:
    spread = speed.pairs_per_s
    assert spread is not None
    differs = "" if speed.difference is None else f"; largest difference {error(speed.difference.max_abs)}"
    return f"{rate(spread.median)} pairs/s ({rate(spread.p5)} to {rate(spread.p95)}){differs}"
