"""The sections of a page, made of results."""

import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..calibration.change import Change
from ..engine.precision import Precision
from ..evaluation.result import Evaluation
from ..speed.result import Difference, Latency, Speed, Speeds, Spread
from . import charts
from .charts import Lane
from .numbers import error, percent, quality, rate, signed
from .pareto import Point, pareto
from .results import Peers, Proof, Results
from .row import Row, rows_of, short
from .section import Figure, Section
from .table import EMPTY, Cell, Column, Table

PRECISIONS = [precision.value for precision in Precision]
REQUEST = 100
"""Passages of the request whose latency stands in the first table."""


def sections_of(results: Results) -> list[Section]:
    """Return the page's sections; what was not given has none."""
    rows = rows_of(results)
    found = [_overview(results, rows)] if rows else []
    found += [
        _speeds(f"speed-{place}", file, speeds, [row for row in rows if row.measured is speeds])
        for place, (file, speeds) in enumerate(results.speeds, start=1)
    ]
    found += [
        _evaluation(f"quality-{place}", evaluation)
        for place, (_, evaluation) in enumerate(results.evaluations, start=1)
    ]
    found += [_peers(f"peers-{place}", peers) for place, (_, peers) in enumerate(results.peers, start=1)]
    if results.bundles:
        found.append(_bundles([proof for _, proof in results.bundles]))
    return [*found, _sources(results)]


# -- the first section


def _overview(results: Results, rows: Sequence[Row]) -> Section:
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
        Column(title="Largest difference", unit="logit"),
        Column(title="Mean difference", unit="logit"),
        Column(title="Top-10 overlap"),
        Column(title="p50", unit=f"ms, {REQUEST} passages"),
        Column(title="p95", unit="ms"),
        Column(title="p99", unit="ms"),
        Column(title="Padding", unit="%"),
    ]
    return Table(
        label="Quality, speed and error", columns=columns, rows=[_main_row(evaluations, row) for row in rows]
    ).filled()


def _main_row(evaluations: Sequence[Evaluation], row: Row) -> list[Cell]:
    speed = row.speed
    cells = [Cell(row.name, precision=row.precision)]
    cells += [
        EMPTY if ranking is None else _quality(evaluation.measures[0], ranking.means, ranking.changes)
        for evaluation, ranking in zip(evaluations, row.rankings, strict=True)
    ]
    if speed is None:
        return [*cells, *[EMPTY] * 10]
    published = (speed.published or {}).get("ndcg10")
    latency = next((latency for latency in speed.latencies if latency.passages == REQUEST), None)
    return [
        *cells,
        _number(published, "{:.2f}".format),
        _fast(speed),
        _spread(speed.ratio),
        *_difference(speed.difference),
        *([EMPTY] * 3 if latency is None else [Cell(rate(value)) for value in _quantiles(latency)]),
        _number(speed.padding, percent),
    ]


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
                says=f"{row.name}: {measure} {quality(mean)}{_interval(change)}; {_said(row.speed)}",
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
    points = [
        Point(
            model=row.group,
            precision=row.precision,
            speed=row.speed.pairs_per_s,
            quality=row.speed.published["ndcg10"],
            known=row.precision == Precision.FP32.value,
            says=f"{row.name}: published nDCG@10 {row.speed.published['ndcg10']:.2f}; {_said(row.speed)}",
        )
        for row in rows
        if row.measured is speeds
        and row.speed is not None
        and row.speed.pairs_per_s is not None
        and "ndcg10" in (row.speed.published or {})
        and row.speed.published is not None
    ]
    if points:
        yield Figure(
            title="Published nDCG@10 against measured speed",
            reading=(
                "The quality is what each model's card says of its FP32 weights on TREC DL 2019, without an interval; it was not "
                "measured here. Hollow marks are other precisions, at the card's height for want of their own. Bars along: 5th "
                "to 95th percentile of the speed; no point is both faster and better than one on the broad line."
            ),
            pictures=[*pareto(points, name=name, measure="published nDCG@10, ×100").values()],
        )


def _said(speed: Speed) -> str:
    spread = speed.pairs_per_s
    assert spread is not None
    differs = "" if speed.difference is None else f"; largest difference {error(speed.difference.max_abs)}"
    return f"{rate(spread.median)} pairs/s ({rate(spread.p5)} to {rate(spread.p95)}){differs}"


# -- speed


def _speeds(name: str, file: str, speeds: Speeds, rows: Sequence[Row]) -> Section:
    fast = [(row, row.speed) for row in rows if row.speed is not None]
    workload = speeds.workload
    figures = [*_latencies(name, fast)]
    padded = [(_lane(row), speed.padding) for row, speed in fast if speed.padding is not None]
    if padded:
        figures.append(
            Figure(
                title="Padding waste",
                reading="The share of computed tokens that is padding, in requests of 100. It is counted, not timed, and so "
                "has no spread.",
                pictures=[charts.padding(padded, name=f"{name}-padding")],
            )
        )
    figures += _scatters(name, {row.name: speed for row, speed in fast})
    if workload.histogram:
        figures.append(
            Figure(
                title="Lengths of the pairs",
                reading="What there is to pad: pairs by their tokens, in steps of 16.",
                pictures=[charts.lengths(workload, name=f"{name}-lengths")],
            )
        )
    figures += _curves(name, speeds)
    return Section(
        name=name,
        title=f"Speed, {file}",
        words=[
            f"On {_processor(speeds.machine)}.",
            f"{workload.pairs:,} pairs of {workload.source}, {workload.mean_tokens:.1f} tokens on average; half have no more "
            f"than {workload.p50_tokens:g}, 99 % no more than {workload.p99_tokens:g}.",
            f"One and the same piece of work varied by {percent(speeds.noise)} % during the run, 95th percentile over the "
            "median: figures that differ by less say nothing.",
        ],
        tables=[_details(fast), *([_ceilings(speeds)] if speeds.ceilings else [])],
        figures=figures,
    )


def _details(fast: Sequence[tuple[Row, Speed]]) -> Table:
    return Table(
        label="What stands behind each speed",
        columns=[
            Column(title="Model and precision", number=False),
            Column(title="Speed", unit="pairs/s"),
            Column(title="Model alone", unit="pairs/s"),
            Column(title="Tokens", unit="1/s"),
            Column(title="Work", unit="GFLOP/pair"),
            Column(title="Of the ceiling", unit="%"),
            Column(title="First score", unit="s"),
            Column(title="Memory", unit="MB"),
            Column(title="Runs on", number=False),
        ],
        rows=[
            [
                Cell(row.name, precision=row.precision),
                _fast(speed),
                _spread(speed.model_pairs_per_s),
                _spread(speed.tokens_per_s),
                _number(speed.gflop_per_pair, rate),
                _number(speed.of_ceiling, percent),
                _spread(speed.start_s),
                _number(speed.memory_mb, "{:,.0f}".format),
                Cell(speed.runs_on) if speed.runs_on else EMPTY,
            ]
            for row, speed in fast
        ],
    ).filled()


def _latencies(name: str, fast: Sequence[tuple[Row, Speed]]) -> Iterator[Figure]:
    for passages in sorted({latency.passages for _, speed in fast for latency in speed.latencies}):
        found = [(row, latency) for row, speed in fast for latency in speed.latencies if latency.passages == passages]
        yield Figure(
            title=f"Latency, one query with {passages:,} passage{'s' if passages > 1 else ''}",
            reading="Left is faster, and a short line is steady: half of the requests take no longer than the mark, 95 % and "
            "99 % no longer than the ticks.",
            pictures=[
                charts.latencies([(_lane(row), latency) for row, latency in found], name=f"{name}-latency-{passages}")
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
                        *(Cell(rate(value)) for value in _quantiles(latency)),
                        Cell(f"{latency.requests:,}"),
                    ]
                    for row, latency in found
                ],
            ),
        )


def _lane(row: Row) -> Lane:
    return Lane(group=row.group, precision=row.precision)


def _scatters(name: str, fast: Mapping[str, Speed]) -> Iterator[Figure]:
    for precision in sorted({speed.precision for speed in fast.values()}, key=_place):
        found = {
            label: speed
            for label, speed in fast.items()
            if speed.precision == precision
            and speed.difference
            and speed.difference.reference
            and speed.difference.max_abs
        }
        if not found:
            continue  # the reference itself
        picture, shown, pairs = charts.scatter(found, precision, name=f"{name}-parity-{precision}")
        yield Figure(
            title=f"Parity, {precision.upper()}",
            reading=(
                f"Each dot is a pair: on the line, its logit is the FP32 one. Below, by how much it differs; dashed, the largest "
                f"difference of all pairs that were measured. {shown:,} of {pairs:,} sampled pairs are drawn."
            ),
            pictures=[picture],
            table=_differences(found),
        )


def _differences(found: Mapping[str, Speed]) -> Table:
    return Table(
        label="Differences of logits",
        columns=[
            Column(title="Row", number=False),
            Column(title="Largest", unit="logit"),
            Column(title="Mean", unit="logit"),
            Column(title="Top-10 overlap"),
            Column(title="Sampled pairs"),
        ],
        rows=[
            [
                Cell(label, precision=speed.precision),
                *_difference(speed.difference),
                Cell(f"{len(speed.difference.logits):,}"),
            ]
            for label, speed in found.items()
            if speed.difference
        ],
    )


def _curves(name: str, speeds: Speeds) -> Iterator[Figure]:
    for place, axis in enumerate(dict.fromkeys(curve.axis for curve in speeds.curves)):
        found = [curve for curve in speeds.curves if curve.axis == axis]
        yield Figure(
            title=f"Speed along {axis}",
            reading="Marks: the median, with a bar from the 5th to the 95th percentile. Dashed: the curve that was fitted; "
            + "; ".join(f"{curve.label}: {curve.fit}" for curve in found)
            + ".",
            pictures=[charts.curves(found, axis, name=f"{name}-curve-{place}")],
            table=Table(
                label=f"Speed along {axis}",
                columns=[
                    Column(title="Row", number=False),
                    Column(title=axis.capitalize()),
                    Column(title="Speed", unit="pairs/s"),
                    Column(title="Fitted", unit="pairs/s"),
                ],
                rows=[
                    [Cell(curve.label), Cell(f"{at:g}"), _spread(speed), Cell(rate(fitted))]
                    for curve in found
                    for at, speed, fitted in zip(curve.at, curve.pairs_per_s, curve.fitted, strict=False)
                ],
            ),
        )


def _ceilings(speeds: Speeds) -> Table:
    return Table(
        label="The most that this machine reaches",
        columns=[
            Column(title="Ceiling", number=False),
            Column(title="Rate"),
            Column(title="Unit", number=False),
            Column(title="Threads"),
            Column(title="Reached by", number=False),
            Column(title="Every kernel's best", number=False),
        ],
        rows=[
            [
                Cell(ceiling.quantity.upper() if ceiling.quantity in PRECISIONS else ceiling.quantity),
                Cell(rate(ceiling.rate)),
                Cell(ceiling.unit),
                Cell(str(ceiling.threads)),
                Cell(ceiling.by),
                Cell(", ".join(f"{kernel} {rate(best)}" for kernel, best in ceiling.rates.items())),
            ]
            for ceiling in speeds.ceilings
        ],
    )


# -- quality


def _evaluation(name: str, evaluation: Evaluation) -> Section:
    columns = [
        Column(title="Ranking", number=False),
        *(Column(title=measure) for measure in evaluation.measures),
        Column(title="Runs on", number=False),
    ]
    rows = [
        [
            Cell(ranking.label, precision=ranking.precision or ""),
            *(_quality(measure, ranking.means, ranking.changes) for measure in evaluation.measures),
            Cell(ranking.runs_on) if ranking.runs_on else EMPTY,
        ]
        for ranking in evaluation.rankings
    ]
    return Section(
        name=name,
        title=f"Quality on {evaluation.collection}",
        words=[
            *(f"{line}." for line in evaluation.description),
            f"In small the difference from {evaluation.baseline} and its 95 % interval, by a paired bootstrap over the queries.",
        ],
        tables=[Table(label=f"Quality on {evaluation.collection}", columns=columns, rows=rows).filled()],
    )


# -- peers


def _peers(name: str, peers: Peers) -> Section:
    ran = sorted(
        (row for row in peers.systems if row.ratio_median and row.ratio_p5_p95),
        key=lambda row: -(row.ratio_median or 0),
    )
    failed = [row for row in peers.systems if row not in ran]
    rows = [
        [
            Cell(row.system),
            Cell("failed", row.failed, words=True) if row.failed else _number(row.pairs_per_s, rate),
            EMPTY
            if row.ratio_median is None
            else Cell(f"{row.ratio_median:.2f}", _between(row.ratio_p5_p95, "{:.2f}".format)),
            *([EMPTY] * 3 if row.ms_p50_p95_p99 is None else [Cell(rate(value)) for value in row.ms_p50_p95_p99]),
            _number(row.max_abs_diff, error),
            _number(row.mean_abs_diff, error),
            _number(row.top10_overlap, "{:.3f}".format),
            _number(row.of_ceiling, percent),
            _number(row.requests, "{:,}".format),
            Cell("other scores than it should have") if row.other_scores else EMPTY,
        ]
        for row in [*ran, *failed]
    ]
    table = Table(
        label=f"Systems, {peers.model}",
        columns=[
            Column(title="System", number=False),
            Column(title="Speed", unit="pairs/s"),
            Column(title="Of PyTorch FP32", unit="ratio"),
            Column(title="p50", unit="ms"),
            Column(title="p95", unit="ms"),
            Column(title="p99", unit="ms"),
            Column(title="Largest difference", unit="logit"),
            Column(title="Mean difference", unit="logit"),
            Column(title="Top-10 overlap"),
            Column(title="Of the ceiling", unit="%"),
            Column(title="Requests"),
            Column(title="Note", number=False),
        ],
        rows=rows,
    ).filled()
    ceilings = ", ".join(f"{precision.upper()} {rate(value)}" for precision, value in peers.ceiling_gflops.items())
    padding = ", ".join(f"{by.replace('_', ' ')} {percent(share)} %" for by, share in peers.padding.items())
    figure = Figure(
        title="Speed of each system",
        reading="Longer is faster, 1 is PyTorch FP32. The thin line is the 5th to 95th percentile of one request's ratio. "
        "Where scores are not the reference's, the share of the best ten that is kept stands behind.",
        pictures=[charts.systems(ran, name=f"{name}-systems")],
    )
    return Section(
        name=name,
        title=f"Beside other systems: {peers.model}, 1 × {peers.candidates}",
        words=[
            f"{peers.requests} requests of one query with {peers.candidates} passages, {peers.threads} "
            f"thread{'s' if peers.threads > 1 else ''}, each to all systems in turn. Differences are from PyTorch's FP32 logits.",
            f"Ceilings in GFLOP/s: {ceilings}. Padding: {padding}.",
        ],
        figures=[figure] if ran else [],
        tables=[table],
    )


# -- bundles


def _bundles(proofs: Sequence[Proof]) -> Section:
    reports = [
        (Lane(group=label, precision=report.precision), report)
        for label, proof in zip(_apart(proofs), proofs, strict=True)
        for report in proof.parities
    ]
    table = Table(
        label="Parity reports",
        columns=[
            Column(title="Bundle and precision", number=False),
            Column(title="Parity", number=False),
            Column(title="Largest difference", unit="logit"),
            Column(title="Allowed", unit="logit"),
            Column(title="Mean difference", unit="logit"),
            Column(title="Pairs"),
            Column(title="Top-10 overlap", unit="lists to judge by"),
            Column(title="Needed"),
            Column(title="Lists"),
            Column(title="Backend", number=False),
        ],
        rows=[
            [
                Cell(lane.says, precision=report.precision),
                Cell("passed" if report.passed else "FAILED"),
                Cell(error(report.max_abs_diff)),
                Cell(f"{report.tolerance.max_abs:g}"),
                Cell(error(report.mean_abs_diff)),
                Cell(f"{report.pairs:,}"),
                EMPTY
                if report.ranking is None
                else Cell(
                    f"{report.ranking.top10_overlap:.3f}",
                    _between((report.ranking.top10_overlap_low, report.ranking.top10_overlap_high), "{:.3f}".format),
                ),
                _number(report.tolerance.top10_overlap or None, "{:g}".format),
                EMPTY if report.ranking is None else Cell(f"{report.ranking.queries:,}"),
                Cell(report.backend),
            ]
            for lane, report in reports
        ],
    ).filled()
    figures = []
    if reports:
        figures.append(
            Figure(
                title="Differences from PyTorch",
                reading="From the mark, the mean over all pairs, to the tick, the largest; the tall tick is what the precision "
                "is allowed. The scale is logarithmic.",
                pictures=[charts.parities(reports, name="bundles-parity")],
            )
        )
    for place, (label, proof) in enumerate(zip(_apart(proofs), proofs, strict=True)):
        figures += _calibration(f"calibration-{place}", label, proof)
    return Section(
        name="bundles",
        title="Parity and calibration of bundles",
        words=[
            "Each bundle was compared with its checkpoint in PyTorch, from raw text, each pair alone and in batches."
        ],
        tables=[table] if reports else [],
        figures=figures,
    )


def _calibration(name: str, label: str, proof: Proof) -> Iterator[Figure]:
    calibration = proof.calibration
    if calibration is None:
        return
    yield Figure(
        title=f"INT8 calibration of {label}",
        reading=(
            "What each part does to the logits when it alone is in 8 bits, the worst first: the mean, and a line to the "
            f"largest. Hollow parts went back to FP32. Recipe {calibration.recipe}; "
            f"{percent(calibration.eight_bit_share)} % of the multiply-adds run in 8 bits."
        ),
        pictures=[charts.damages(calibration, name=name)],
        table=Table(
            label=f"Parts of {label} alone in 8 bits",
            columns=[
                Column(title="Part", number=False),
                Column(title="Mean", unit="logit"),
                Column(title="Largest", unit="logit"),
                Column(title="Share", unit="% of multiply-adds"),
                Column(title="Held in", number=False),
            ],
            rows=[
                [
                    Cell(unit.unit),
                    Cell(error(unit.mean_abs_diff)),
                    Cell(error(unit.max_abs_diff)),
                    Cell(percent(unit.share)),
                    Cell("FP32" if unit.restored else "INT8"),
                ]
                for unit in calibration.sensitivities
            ],
        ),
    )
    if calibration.drawing:
        yield Figure(
            title=f"What {label} holds in 8 bits",
            reading="As it was drawn when the bundle was made: on the right, the values of the five worst parts on a logarithmic "
            "scale; red lines are where 8 bits end.",
            image="data:image/svg+xml," + urllib.parse.quote(calibration.drawing, safe=" /:=;,()[]*+!?@$&'"),
        )


def _apart(proofs: Sequence[Proof]) -> list[str]:
    names = [short(proof.model) for proof in proofs]
    return [
        f"{name} ({proof.sha256[:8]})" if names.count(name) > 1 else name
        for name, proof in zip(names, proofs, strict=True)
    ]


# -- where all of it comes from


def _sources(results: Results) -> Section:
    measured: Iterable[tuple[str, str, Evaluation | Speeds | Peers]] = (
        *((file, "crossrt bench", speeds) for file, speeds in results.speeds),
        *((file, "crossrt evaluate", evaluation) for file, evaluation in results.evaluations),
        *((file, "benchmarks/cpu.py", peers) for file, peers in results.peers),
    )
    rows = [
        [
            Cell(file),
            Cell(kind),
            Cell(_machine(result.machine)),
            # An evaluation keeps none, so that it ends with the same bytes wherever it was interrupted.
            EMPTY if isinstance(result, Evaluation) or result.date is None else Cell(result.date),
            Cell(result.commit),
            Cell(_versions(result.versions)),
        ]
        for file, kind, result in measured
    ]
    rows += [
        [Cell(file), Cell("crossrt export"), EMPTY, EMPTY, EMPTY, Cell(_versions(proof.tools))]
        for file, proof in results.bundles
    ]
    titles = ("File", "Made by", "Machine", "Date", "Commit", "Versions")
    table = Table(
        label="Where the figures come from", columns=[Column(title=title, number=False) for title in titles], rows=rows
    )
    words = ["A + behind a commit says that files differed from it."] if any("+" in row[4].text for row in rows) else []
    return Section(name="sources", title="Where the figures come from", words=words, tables=[table])


def _processor(machine: Mapping[str, Any]) -> str:
    name = str(machine.get("gpu") or machine.get("processor") or "an unnamed machine")
    return f"{name}, {machine['usable_cpus']} processors" if "usable_cpus" in machine else name


def _machine(machine: Mapping[str, Any]) -> str:
    def said(value: Any) -> str:
        return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)

    return "; ".join(
        said(value) if key == "processor" else f"{key.replace('_', ' ')} {said(value)}"
        for key, value in machine.items()
    )


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{package}\N{NO-BREAK SPACE}{version}" for package, version in versions.items())


# -- cells


def _place(precision: str) -> int:
    return PRECISIONS.index(precision) if precision in PRECISIONS else len(PRECISIONS)


def _quantiles(latency: Latency) -> tuple[float, float, float]:
    return latency.p50_ms, latency.p95_ms, latency.p99_ms


def _number(value: float | None, written: Any) -> Cell:
    return EMPTY if value is None else Cell(written(value))


def _spread(spread: Spread | None) -> Cell:
    return EMPTY if spread is None else Cell(rate(spread.median), _between((spread.p5, spread.p95), rate))


def _difference(difference: Difference | None) -> list[Cell]:
    if difference is None:
        return [EMPTY] * 3
    overlap = _number(difference.top10_overlap, "{:.3f}".format)
    return [Cell(error(difference.max_abs)), Cell(error(difference.mean_abs)), overlap]


def _fast(speed: Speed) -> Cell:
    return Cell("failed", speed.failed, words=True) if speed.failed else _spread(speed.pairs_per_s)


def _between(ends: tuple[float, float] | None, written: Any) -> str:
    return "" if ends is None else f"{written(ends[0])} to {written(ends[1])}"


def _quality(measure: str, means: Mapping[str, float], changes: Mapping[str, Change] | None) -> Cell:
    mean = quality(means[measure])
    return Cell(mean, "baseline") if changes is None else Cell(mean, _interval(changes[measure]).strip())


def _interval(change: Change | None) -> str:
    return "" if change is None else f" {signed(change.difference)} ({signed(change.low)} to {signed(change.high)})"
