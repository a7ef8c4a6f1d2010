"""Chart of the differences from PyTorch in the parity reports of bundles."""

import math
from collections.abc import Sequence

from ..numbers import error
from ..proof import Parity
from .rows import WIDTH, ChartRow, grouped_axes, style_of
from .svg_chart import INK, SvgChart, decades, drawing


def parity_chart(reports: Sequence[tuple[ChartRow, Parity]], *, name: str) -> SvgChart:
    """Draw each report's differences from PyTorch: the mean as a marker, the largest as a tick, the tolerance as a tall tick."""
    with drawing():
        canvas, axes, places = grouped_axes([row for row, _ in reports])
        axes.set_xscale("log")
        for (row, report), place in zip(reports, places, strict=True):
            colour, marker = style_of(row.precision)
            limit = report.tolerance.max_abs
            mean, most = (max(value, 1e-9) for value in (report.mean_abs_diff, report.max_abs_diff))
            if math.isfinite(most):
                axes.plot([mean, most], [place] * 2, color=colour, linewidth=1.4, alpha=0.6)
                axes.plot([most], [place], color=colour, marker="|")
                (mark,) = axes.plot([mean], [place], color=colour, marker=marker)
                canvas.says(
                    mark,
                    f"{row.label}: mean {error(report.mean_abs_diff)}, largest {error(report.max_abs_diff)} of "
                    f"{limit:g} allowed",
                )
            (end,) = axes.plot([limit], [place], color=INK, marker="|", markersize=13, linestyle="")
            canvas.says(end, f"{row.label}: {limit:g} allowed")
        decades(axes, 0.55 * WIDTH)
        axes.set_xlabel("|logit − PyTorch's|")
        return canvas.picture(name, f"Differences of {len(reports)} parity reports from PyTorch")
