"""The section of one result of `crossrt evaluate`."""

from ...evaluation.result import Evaluation
from .cells import quality_cell
from .section import Section
from .table import EMPTY, Cell, Column, Table


def ranking_section(name: str, evaluation: Evaluation) -> Section:
    """Return the section."""
    columns = [
        Column(title="Ranking", number=False),
        *(Column(title=measure) for measure in evaluation.measures),
        Column(title="Runs on", number=False),
    ]
    rows = [
        [
            Cell(ranking.label, precision=ranking.precision or ""),
            *(quality_cell(measure, ranking.means, ranking.changes) for measure in evaluation.measures),
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
