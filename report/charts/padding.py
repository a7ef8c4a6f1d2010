"""Chart of the share of padding in the computed tokens."""

from collections.abc import Sequence

from ..numbers import percent
from .rows import ChartRow, annotate, grouped_axes, style_of
from .svg_chart import SvgChart, drawing, numbered


def padding_chart(rows: Sequence[tuple[ChartRow, float]], *, name: str) -> SvgChart:
    """Draw each row's share of padding."""
    with drawing():
        canvas, axes, places = grouped_axes([row for row, _ in rows])
        for (row, share), place in zip(rows, places, strict=True):
            (bar,) = axes.barh([place], [100 * share], color=style_of(row.precision)[0], height=0.62)
            canvas.says(bar, f"{row.label}: {percent(share)} % of computed tokens are padding")
            annotate(axes, percent(share), 100 * share, place)
        axes.set_xlim(left=0, right=max([1.0, *(100 * share for _, share in rows)]) * 1.2)
        numbered(axes.xaxis)
        axes.set_xlabel("% of computed tokens")
        return canvas.picture(name, f"Padding of {len(rows)} rows")
