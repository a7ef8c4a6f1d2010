"""`pareto` draws quality against speed, with a labelled point for every model in every precision."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties

from ...speed.result.speeds import Spread
from .placement import placed
from .svg_chart import ACCENT, INK, LINE, MUTED, PAPER, PRECISIONS, Canvas, SvgChart, decades, drawing, legend, numbered

SIZES: Mapping[str, tuple[int, int, int]] = {"wide": (960, 480, 3), "narrow": (400, 420, 11)}
"""Width, height, and extra height per point. A page shows the wide picture on screens and paper, the narrow one on phones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One row with a speed and a quality. A line joins the points with the same `model`.

    `low` and `high` are the ends of the quality's interval, or None without one. `known` is False if the quality does not belong
    to this precision, but to the FP32 weights, from the model's card. `says` is the tooltip.
    """

    model: str
    precision: str
    speed: Spread
    quality: float
    low: float | None = None
    high: float | None = None
    known: bool = True
    says: str


def pareto(
    points: Sequence[Point], *, name: str, measure: str, levels: Mapping[str, float] | None = None
) -> dict[str, SvgChart]:
    """Draw points, and `levels` (rankings without a speed) as horizontal lines. Return the wide and the narrow picture."""
    return {
        size: _drawn(points, f"{name}-{size}", measure, levels or {}, width, height + each * len(points))
        for size, (width, height, each) in SIZES.items()
    }


def frontier(points: Sequence[Point]) -> list[Point]:
    """Return the Pareto-optimal points, slowest first. No other point beats them in both speed and quality."""
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (-point.speed.median, -point.quality)):
        if not best or point.quality > best[-1].quality:
            best.append(point)
    return best[::-1]


def _drawn(
    points: Sequence[Point], name: str, measure: str, levels: Mapping[str, float], width: int, height: int
) -> SvgChart:
    with drawing():
        canvas = Canvas(width, height)
        axes = canvas.figure.subplots()
        axes.set_xscale("log")
        axes.margins(0.06, 0.1)
        axes.grid(True)
        numbered(axes.yaxis)
        axes.set_xlabel("pairs per second, from text to score (faster to the right)")
        axes.set_ylabel(measure)
        best = frontier(points)
        axes.step(
            [point.speed.median for point in best],
            [point.quality for point in best],
            where="pre",
            color=ACCENT,
            alpha=0.35,
            linewidth=5,
            solid_joinstyle="round",
        )
        for model in dict.fromkeys(point.model for point in points):
            own = sorted((point for point in points if point.model == model), key=lambda point: point.speed.median)
            axes.plot([p.speed.median for p in own], [p.quality for p in own], color=LINE, linewidth=1.2, zorder=1.5)
        for point in points:
            _mark(canvas, axes, point)
        for place, (label, level) in enumerate(levels.items()):
            _level(axes, f"{label} {level:.4g}", level, points, 3 + 14 * place)
        decades(axes, 0.85 * width)
        legend(axes, [point.precision for point in points])
        _label(canvas, axes, points)
        return canvas.picture(
            name, f"{measure} against pairs per second, {len(points)} points; their values are in the table"
        )


def _mark(canvas: Canvas, axes: Axes, point: Point) -> None:
    colour, marker = PRECISIONS.get(point.precision, (INK, "o"))
    speed = point.speed
    axes.plot([speed.p5, speed.p95], [point.quality] * 2, color=colour, linewidth=1, alpha=0.6)
    if point.low is not None and point.high is not None:
        axes.plot([speed.median] * 2, [point.low, point.high], color=colour, linewidth=1, alpha=0.6)
    (mark,) = axes.plot(
        [speed.median],
        [point.quality],
        color=colour,
        marker=marker,
        markerfacecolor=colour if point.known else PAPER,
        linestyle="",
        zorder=3,
    )
    canvas.says(mark, point.says)


def _level(axes: Axes, label: str, level: float, points: Sequence[Point], height: float) -> None:
    """Draw a horizontal line, or a text at the bottom of the axes if a line would squeeze the points together."""
    low, high = (found(point.quality for point in points) for found in (min, max))
    near = low - (high - low) <= level <= high + (high - low)
    if near:
        axes.axhline(level, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate(
        label if near else f"{label}, {'below' if level < low else 'above'}",
        (0, level) if near else (0, 0),
        xycoords=("axes fraction", "data") if near else "axes fraction",
        xytext=(3, 3 if near else height),
        textcoords="offset points",
        color=MUTED,
    )


def _label(canvas: Canvas, axes: Axes, points: Sequence[Point]) -> None:
    """Label each point with its precision, and one point of each model with its name."""
    canvas.settle()
    labels: list[tuple[str, str, tuple[float, float]]] = []
    for model in dict.fromkeys(point.model for point in points):
        own = sorted((point for point in points if point.model == model), key=lambda point: point.speed.median)
        colours = [PRECISIONS.get(point.precision, (INK, "o"))[0] for point in own]
        at = [axes.transData.transform((point.speed.median, point.quality)) for point in own]
        labels.append((f"{model} {own[0].precision}", INK, (float(at[0][0]), float(at[0][1]))))
        labels += [
            (point.precision, colour, (float(x), float(y)))
            for point, colour, (x, y) in list(zip(own, colours, at, strict=True))[1:]
        ]
    font = FontProperties(size=9.5)
    box = axes.get_window_extent()
    lines = [np.asarray(line.get_xydata()) for line in axes.lines]
    places = placed(
        [at for _, _, at in labels],
        [canvas.size(text, font) for text, _, _ in labels],
        within=(box.x0 + 2, box.y0 + 2, box.x1 + 4, box.y1),
        lines=[axes.transData.transform(line) for line in lines if len(line) > 1],
    )
    back = axes.transData.inverted()
    for (text, colour, mark), place in zip(labels, places, strict=True):
        where = (place.x, place.y) if place else (mark[0], mark[1] + 10)
        (x0, y0), (x1, y1) = back.transform(np.array([mark, where])).tolist()
        if place and place.led:
            axes.plot([x0, x1], [y0, y1], color=MUTED, linewidth=0.6, zorder=1.6)
        axes.text(x1, y1, text, color=colour, fontproperties=font, ha="center", va="center", zorder=4)
