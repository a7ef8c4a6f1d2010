"""Chart of the latencies of requests of one size."""

from collections.abc import Sequence

from ...speed.result.speeds import Latency
from ..numbers import rate
from .rows import WIDTH, ChartRow, grouped_axes, style_of
from .svg_chart import SvgChart, decades, drawing


def latency_chart(rows: Sequence[tuple[ChartRow, Latency]], *, name: str) -> SvgChart:
    """Draw each row's p50 with the marker of its precision, and a line to p95 and p99. All requests have one size."""
    with drawing():
        canvas, axes, places = grouped_axes([row for row, _ in rows])
        axes.set_xscale("log")
        for (row, latency), place in zip(rows, places, strict=True):
            colour, marker = style_of(row.precision)
            axes.plot([latency.p50_ms, latency.p99_ms], [place] * 2, color=colour, linewidth=1.4, alpha=0.6)
            axes.plot([latency.p95_ms, latency.p99_ms], [place] * 2, color=colour, marker="|", linestyle="")
            (mark,) = axes.plot([latency.p50_ms], [place], color=colour, marker=marker)
            canvas.says(
                mark,
                f"{row.label}: p50 {rate(latency.p50_ms)}, p95 {rate(latency.p95_ms)}, p99 {rate(latency.p99_ms)} ms, "
                f"{latency.requests} requests",
            )
        decades(axes, 0.55 * WIDTH)
        axes.set_xlabel("ms: mark p50, ticks p95 and p99")
        return canvas.picture(name, f"Latency of {len(rows)} rows: p50, p95 and p99")
