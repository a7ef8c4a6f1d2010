"""Chart of speed along one axis, with fitted curves."""

from collections.abc import Sequence

from matplotlib.ticker import NullLocator

from ...speed.result.speeds import Curve
from ..numbers import rate
from .rows import WIDTH
from .svg_chart import PRECISIONS, Canvas, SvgChart, drawing, numbered


def curve_chart(found: Sequence[Curve], axis: str, *, name: str) -> SvgChart:
    """Draw speeds along one axis: markers with their spread, and the fitted curves."""
    colours = [colour for colour, _ in PRECISIONS.values()]
    with drawing():
        canvas = Canvas(WIDTH, 300 + 14 * len(found))
        axes = canvas.figure.subplots()
        axes.grid(True)
        for place, curve in enumerate(found):
            colour, marker = colours[place % len(colours)], "osD^vP*X"[place % 8]
            axes.plot(curve.at, curve.fitted, color=colour, linewidth=1.2, linestyle=(0, (4, 2)))
            axes.plot([], [], color=colour, marker=marker, linestyle=(0, (4, 2)), label=curve.label)
            for at, speed in zip(curve.at, curve.pairs_per_s, strict=False):
                axes.plot([at] * 2, [speed.p5, speed.p95], color=colour, linewidth=1.2)
                (mark,) = axes.plot([at], [speed.median], color=colour, marker=marker, linestyle="")
                canvas.says(
                    mark,
                    f"{curve.label}, {at:g} {axis}: {rate(speed.median)} pairs/s ({rate(speed.p5)} to {rate(speed.p95)})",
                )
        if axis != "threads":
            axes.set_xscale("log", base=2)
        axes.set_xticks(sorted({at for curve in found for at in curve.at if at > 0}))
        axes.xaxis.set_minor_locator(NullLocator())
        numbered(axes.xaxis)
        axes.set_ylim(bottom=0)
        numbered(axes.yaxis)
        axes.set_xlabel(axis)
        axes.set_ylabel("pairs per second")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False, borderpad=0, fontsize=9.5)
        return canvas.picture(name, f"Pairs per second along {axis}, {len(found)} rows")
