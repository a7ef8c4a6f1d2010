"""The tables in the section of one result of `crossrt bench`."""

from collections.abc import Mapping, Sequence

from ...speed.result.speeds import Speed, Speeds
from ..numbers import percent, rate
from ..row import Row
from .cells import PRECISIONS, difference_cells, number_cell, speed_cell, spread_cell
from .table import EMPTY, Cell, Column, Table


def details_table(fast: Sequence[tuple[Row, Speed]]) -> Table:
    """Return a table of what is known of each row, except its latencies."""
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
                speed_cell(speed),
                spread_cell(speed.model_pairs_per_s),
                spread_cell(speed.tokens_per_s),
                number_cell(speed.gflop_per_pair, rate),
                number_cell(speed.of_ceiling, percent),
                spread_cell(speed.start_s),
                number_cell(speed.memory_mb, "{:,.0f}".format),
                Cell(speed.runs_on) if speed.runs_on else EMPTY,
            ]
            for row, speed in fast
        ],
    ).filled()


def differences_table(found: Mapping[str, Speed]) -> Table:
    """Return a table of how far the logits of rows are from their reference."""
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
                *difference_cells(speed.difference),
                Cell(f"{len(speed.difference.logits):,}"),
            ]
            for label, speed in found.items()
            if speed.difference
        ],
    )


def ceilings_table(speeds: Speeds) -> Table:
    """Return a table of the best rates that the machine reaches, with the kernels that reach them."""
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
