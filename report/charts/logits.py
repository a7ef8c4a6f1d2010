"""Chart of the logits of one precision against the reference, and of their differences."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline

from ...speed.result.speeds import Speed
from ..numbers import error
from .rows import WIDTH, style_of
from .svg_chart import LINE, MUTED, Canvas, SvgChart, drawing, numbered

MAX_POINTS = 600
"""Most points that a scatter plot draws. More would cost a megabyte and show the same."""


def logit_chart(rows: Mapping[str, Speed], precision: str, *, name: str) -> tuple[SvgChart, int, int]:
    """Draw each pair's logit against the reference, and below it their difference.

    All `rows` are in this precision and have a difference. Also return the number of pairs that are drawn and of all pairs with
    finite logits.
    """
    found = [
        (float(reference), float(logit))
        for row in rows.values()
        if row.difference
        for reference, logit in zip(row.difference.reference, row.difference.logits, strict=False)
        if math.isfinite(reference) and math.isfinite(logit)
    ]
    shown = found[:: max(1, math.ceil(len(found) / MAX_POINTS))]
    colour, _ = style_of(precision)
    with drawing():
        canvas = Canvas(WIDTH, 430)
        above, below = canvas.figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.4))
        ends = [min(min(pair) for pair in shown), max(max(pair) for pair in shown)] if shown else [0.0, 1.0]
        above.plot(ends, ends, color=LINE, linewidth=1.5)
        _dots(above, shown, colour)
        _dots(below, [(reference, logit - reference) for reference, logit in shown], colour)
        below.axhline(0, color=LINE, linewidth=1.5)
        most = max(row.difference.max_abs for row in rows.values() if row.difference)
        if math.isfinite(most):
            for end in (-most, most):
                line = below.axhline(end, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
                canvas.says(line, f"largest difference of all pairs: {error(most)}")
            below.set_ylim(-1.15 * most, 1.15 * most) if most else None
        for axis in (above.xaxis, above.yaxis, below.yaxis):
            numbered(axis, "{:.3g}".format)
        above.set_ylabel(f"{precision.upper()} logit")
        below.set_ylabel("difference")
        below.set_xlabel("reference logit: the bundle's FP32")
        for axes in (above, below):
            axes.grid(True)
        picture = canvas.picture(name, f"{precision.upper()} logits against FP32 logits of {len(shown)} pairs")
        return picture, len(shown), len(found)


def _dots(axes: Axes, points: Sequence[tuple[float, float]], colour: str) -> None:
    """Draw all points as one path of zero-length strokes with round caps. This takes a tenth of the size of markers."""
    if not points:
        return
    outline = Outline(
        [vertex for point in points for vertex in (point, point)],
        [code for _ in points for code in (Outline.MOVETO, Outline.LINETO)],
    )
    outline.should_simplify = False
    axes.add_patch(PathPatch(outline, edgecolor=colour, linewidth=3, capstyle="round", alpha=0.55, fill=False))
    axes.update_datalim(points)
    axes.autoscale_view()
