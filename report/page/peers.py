"""The section of one result of `benchmarks/cpu.py`."""

from ..charts.peers import peer_chart
from ..numbers import error, percent, rate
from ..peers import Peers
from .cells import between, number_cell
from .section import Figure, Section
from .table import EMPTY, Cell, Column, Table


def peers_section(name: str, peers: Peers) -> Section:
    """Return the section."""
    ran = sorted(
        (row for row in peers.systems if row.ratio_median and row.ratio_p5_p95),
        key=lambda row: -(row.ratio_median or 0),
    )
    failed = [row for row in peers.systems if row not in ran]
    rows = [
        [
            Cell(row.system),
            Cell("failed", row.failed, words=True) if row.failed else number_cell(row.pairs_per_s, rate),
            EMPTY
            if row.ratio_median is None
            else Cell(f"{row.ratio_median:.2f}", between(row.ratio_p5_p95, "{:.2f}".format)),
            *([EMPTY] * 3 if row.ms_p50_p95_p99 is None else [Cell(rate(value)) for value in row.ms_p50_p95_p99]),
            number_cell(row.max_abs_diff, error),
            number_cell(row.mean_abs_diff, error),
            number_cell(row.top10_overlap, "{:.3f}".format),
            number_cell(row.of_ceiling, percent),
            number_cell(row.requests, "{:,}".format),
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
        pictures=[peer_chart(ran, name=f"{name}-systems")],
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
