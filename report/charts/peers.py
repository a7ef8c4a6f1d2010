"""Chart of the speed of systems relative to PyTorch."""

from collections.abc import Sequence

from ..peers import PeerSystem
from .rows import annotate, listed_axes
from .svg_chart import ACCENT, INK, MUTED, SvgChart, drawing, numbered


def peer_chart(rows: Sequence[PeerSystem], *, name: str) -> SvgChart:
    """Draw each system's speed relative to the reference, with the 5th to 95th percentile; crossrt is highlighted."""
    with drawing():
        canvas, axes = listed_axes([""] * len(rows), height=30)
        for place, row in enumerate(rows):
            assert row.ratio_median is not None
            assert row.ratio_p5_p95 is not None
            colour = ACCENT if row.system.startswith("crossrt") else MUTED
            (bar,) = axes.barh([place + 0.2], [row.ratio_median], color=colour, height=0.4)
            low, high = row.ratio_p5_p95
            axes.plot([low, high], [place + 0.2] * 2, color=INK, linewidth=1.2, marker="|", markersize=6)
            overlap = "" if row.top10_overlap is None else f", top-10 overlap {row.top10_overlap:.3f}"
            canvas.says(bar, f"{row.system}: {row.ratio_median:.2f} ({low:.2f} to {high:.2f}){overlap}")
            exact = row.top10_overlap is None or (row.max_abs_diff or 0) < 1e-3
            note = f"{row.ratio_median:.2f}" + ("" if exact else f", overlap {row.top10_overlap:.3f}")
            annotate(axes, note, high, place + 0.2)
            # The name is above its bar, since it can be as wide as the picture on a phone.
            axes.annotate(row.system, (0, place - 0.08), xytext=(1, 0), textcoords="offset points", fontsize=9.5)
        axes.set_xlim(0, 1.4 * max(row.ratio_p5_p95[1] for row in rows if row.ratio_p5_p95))
        numbered(axes.xaxis)
        axes.axvline(1, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0.5)
        axes.set_xlabel("speed of PyTorch FP32: median, 5th to 95th percentile")
        return canvas.picture(name, f"Speed of {len(rows)} systems relative to PyTorch FP32")
