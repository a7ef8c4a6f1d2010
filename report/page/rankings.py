"""The section of one result of `crossrt evaluate`."""

from ...evaluation.agreement import TOP
from ...evaluation.result import Evaluation, Ranking
from ..numbers import percent, rate
from .cells import number_cell, quality_cell
from .section import Section
from .table import EMPTY, Cell, Column, Table


def ranking_section(name: str, evaluation: Evaluation) -> Section:
    """Return the section."""
    columns = [
        Column(title="Ranking", number=False),
        *(Column(title=measure) for measure in evaluation.measures),
        Column(title=f"Top {TOP} kept"),
        Column(title="Same list", unit="%"),
        Column(title="Speed", unit="pairs/s"),
        Column(title="Cut", unit="%"),
        Column(title="Runs on", number=False),
    ]
    rows = [
        [
            Cell(ranking.label, precision=ranking.precision or ""),
            *(quality_cell(measure, ranking.means, ranking.changes) for measure in evaluation.measures),
            *_agreement_cells(ranking),
            number_cell(ranking.pairs_per_s, rate),
            _cut_cell(ranking),
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
            f"Top {TOP} kept is the share of its ten best that a ranking has too, and same list the share of the queries with "
            "the same ten in the same order. Speeds were not measured in turns. Cut are pairs that were too long for the model.",
        ],
        tables=[Table(label=f"Quality on {evaluation.collection}", columns=columns, rows=rows).filled()],
    )


def _agreement_cells(ranking: Ranking) -> list[Cell]:
    agreement = ranking.agreement
    if agreement is None:
        return [EMPTY, EMPTY]
    return [Cell(f"{agreement.kept:.4f}"), Cell(percent(agreement.same))]


def _cut_cell(ranking: Ranking) -> Cell:
    cut = ranking.truncation
    return EMPTY if cut is None or not cut.pairs else Cell(percent(cut.cut / cut.pairs))
