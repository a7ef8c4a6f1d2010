"""`ChartRow`, and the axes of charts with row names at the left."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from .svg_chart import INK, PRECISIONS, Canvas, legend

WIDTH = 420
"""Width of a chart in drawing units; see `picture.UNIT`."""
HEIGHT = 12
"""Height of a row in a grouped chart, in drawing units."""
GAP = 0.8
"""Free space between two groups, in rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartRow:
    """A row of a grouped chart: one precision of a `group`. The rows of a group are together under one name."""

    group: str
    precision: str

    @property
    def label(self) -> str:
        """Its name in tooltips and tables."""
        return f"{self.group} {self.precision}"


def grouped_axes(rows: Sequence[ChartRow]) -> tuple[Canvas, Axes, list[float]]:
    """Return the canvas, axes with a name for each group and a line for each row, and the y position of each row."""
    groups = list(dict.fromkeys(row.group for row in rows))
    heights, middles, at = [0.0] * len(rows), [], 0.0
    for group in groups:
        own = [index for index, row in enumerate(rows) if row.group == group]
        for step, index in enumerate(own):
            heights[index] = at + step
        middles.append(at + (len(own) - 1) / 2)
        at += len(own) + GAP
    canvas, axes = _named(groups, middles, 66 + HEIGHT * at)
    axes.set_ylim(at - GAP - 0.4, -0.6)
    legend(axes, [row.precision for row in rows])
    return canvas, axes, heights


def listed_axes(names: Sequence[str], *, height: int = 15) -> tuple[Canvas, Axes]:
    """Return the canvas, and axes with a row of this height for each name, the first on top."""
    canvas, axes = _named(names, range(len(names)), 46 + height * max(1, len(names)))
    axes.set_ylim(max(1, len(names)) - 0.4, -0.6)
    return canvas, axes


def style_of(precision: str) -> tuple[str, str]:
    """Return a precision's colour and marker."""
    return PRECISIONS.get(precision, (INK, "o"))


def annotate(axes: Axes, text: str, x: float, y: float) -> None:
    """Write a value to the right of a point."""
    axes.annotate(text, (x, y), xytext=(6, 0), textcoords="offset points", va="center", fontsize=9.5)


def _named(names: Sequence[str], places: Sequence[float], height: float) -> tuple[Canvas, Axes]:
    """Return the canvas, and axes with names at the left. Long names are shortened in the middle."""
    canvas = Canvas(WIDTH, height)
    axes = canvas.figure.subplots()
    most = WIDTH // 16
    axes.set_yticks(
        places, [name if len(name) <= most else f"{name[: most // 2]}…{name[-most // 2 :]}" for name in names]
    )
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(True, axis="x")
    return canvas, axes
