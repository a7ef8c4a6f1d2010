"""`Section`: a part of the page, with text, figures and tables."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..charts.svg_chart import SvgChart
from .table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Charts with a title, an explanation (`reading`), and their values as a table.

    With two pictures, the first is for wide windows and the second for narrow ones. `image` is the data URL of an existing SVG
    file.
    """

    title: str
    reading: str
    pictures: Sequence[SvgChart] = ()
    image: str = ""
    table: Table | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading with sentences below it, then tables and figures. With `figures_first` the figures come before the tables.

    `name` is the anchor.
    """

    name: str
    title: str
    words: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    figures_first: bool = False
