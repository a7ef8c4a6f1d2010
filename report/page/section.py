"""`Section`: a part of the page, with its words, pictures and tables."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..charts.picture import Picture
from .table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Pictures with what they show and how to read them, and their values as a table.

    With two pictures the first is for wide windows and the second for narrow ones. `image` is a whole SVG file that was drawn by
    somebody else, as a data URL.
    """

    title: str
    reading: str
    pictures: Sequence[Picture] = ()
    image: str = ""
    table: Table | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading, sentences below it, then tables and figures, or with `figures_first` the figures above long tables.

    `name` is its anchor.
    """

    name: str
    title: str
    words: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    figures_first: bool = False
