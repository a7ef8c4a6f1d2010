"""Chart of the lengths of a workload's pairs."""

from matplotlib.axes import Axes

from ...speed.result.speeds import Workload
from .rows import WIDTH
from .svg_chart import ACCENT, MUTED, Canvas, SvgChart, drawing, numbered


def length_chart(workload: Workload, *, name: str) -> SvgChart:
    """Draw a histogram of the pairs' lengths, in steps of 16 tokens."""
    with drawing():
        canvas = Canvas(WIDTH, 200)
        axes = canvas.figure.subplots()
        for start, count in sorted((int(start), count) for start, count in workload.histogram.items()):
            (bar,) = axes.bar([start + 8], [count], width=15, color=ACCENT)
            canvas.says(bar, f"{start} to {start + 15} tokens: {count:,} pairs")
        _upright(axes, workload.p50_tokens, "p50")
        _upright(axes, workload.p99_tokens, "p99")
        axes.set_ylim(bottom=0)
        axes.margins(y=0.15)
        axes.set_xlabel("tokens of a pair")
        axes.set_ylabel("pairs")
        numbered(axes.yaxis)
        return canvas.picture(name, f"Lengths of {workload.pairs} pairs in tokens")


def _upright(axes: Axes, at: float, label: str) -> None:
    axes.axvline(at, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.annotate(
        f"{label} {at:g}",
        (at, 1),
        xycoords=("data", "axes fraction"),
        xytext=(3, 0),
        textcoords="offset points",
        va="top",
        fontsize=9,
    )
