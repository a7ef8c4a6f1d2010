"""`Table`: rows of text cells. The page lays them out."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A heading with its unit. Columns of numbers are aligned right, others left."""

    title: str
    unit: str = ""
    number: bool = True


@dataclass(frozen=True, slots=True)
class Cell:
    """A text with its spread, interval or reason in small print below.

    With `words` lines wrap, otherwise they break only at "\\n". `precision` puts the marker of that precision before the text.
    """

    text: str
    spread: str = ""
    precision: str = ""
    words: bool = False


EMPTY = Cell("–")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows with a cell per column. The first column names the row. `label` is for screen readers."""

    label: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]

    def filled(self) -> "Table":
        """Return the table without the columns that are empty in every row."""
        kept = [place for place in range(len(self.columns)) if any(row[place] != EMPTY for row in self.rows)]
        return Table(
            label=self.label,
            columns=[self.columns[place] for place in kept],
            rows=[[row[place] for place in kept] for row in self.rows],
        )
