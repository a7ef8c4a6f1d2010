"""`Table`: what stands beside a picture, in words that the page sets."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A heading with its unit. Numbers are set right, words left."""

    title: str
    unit: str = ""
    number: bool = True


@dataclass(frozen=True, slots=True)
class Cell:
    """What is said, and in small below it its spread or interval, or `words`. Only words are wrapped; the rest breaks at "\\n".

    `precision` puts that precision's mark before it.
    """

    text: str
    spread: str = ""
    precision: str = ""
    words: bool = False


EMPTY = Cell("–")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of cells, as many as there are columns. `label` is read out before it; the first column names the row."""

    label: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]

    def filled(self) -> "Table":
        """Return the table without columns that are empty in every row."""
        kept = [place for place in range(len(self.columns)) if any(row[place] != EMPTY for row in self.rows)]
        return Table(
            label=self.label,
            columns=[self.columns[place] for place in kept],
            rows=[[row[place] for place in kept] for row in self.rows],
        )
