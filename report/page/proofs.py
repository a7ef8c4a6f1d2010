"""The section on the bundles: parity and calibration."""

import urllib.parse
from collections.abc import Iterator, Sequence

from ..charts.calibration import sensitivity_chart
from ..charts.parity import parity_chart
from ..charts.rows import ChartRow
from ..numbers import error, percent
from ..proof import Proof
from ..row import short
from .cells import between, number_cell
from .section import Figure, Section
from .table import EMPTY, Cell, Column, Table


def bundles_section(proofs: Sequence[Proof]) -> Section:
    """Return the section."""
    reports = [
        (ChartRow(group=label, precision=report.precision), report)
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
                Cell(row.label, precision=report.precision),
                Cell("passed" if report.passed else "FAILED"),
                Cell(error(report.max_abs_diff)),
                Cell(f"{report.tolerance.max_abs:g}"),
                Cell(error(report.mean_abs_diff)),
                Cell(f"{report.pairs:,}"),
                EMPTY
                if report.ranking is None
                else Cell(
                    f"{report.ranking.top10_overlap:.3f}",
                    between((report.ranking.top10_overlap_low, report.ranking.top10_overlap_high), "{:.3f}".format),
                ),
                number_cell(report.tolerance.top10_overlap or None, "{:g}".format),
                EMPTY if report.ranking is None else Cell(f"{report.ranking.queries:,}"),
                Cell(report.backend),
            ]
            for row, report in reports
        ],
    ).filled()
    figures = []
    if reports:
        figures.append(
            Figure(
                title="Differences from PyTorch",
                reading="From the mark, the mean over all pairs, to the tick, the largest; the tall tick is what the precision "
                "is allowed. The scale is logarithmic.",
                pictures=[parity_chart(reports, name="bundles-parity")],
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
        pictures=[sensitivity_chart(calibration, name=name)],
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
