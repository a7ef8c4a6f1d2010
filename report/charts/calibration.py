"""Chart of the effect on the logits when only one part of a model is in 8 bits."""

from ..numbers import error, percent
from ..proof import Calibration
from .rows import listed_axes, style_of
from .svg_chart import MUTED, PAPER, SvgChart, drawing, numbered


def sensitivity_chart(calibration: Calibration, *, name: str) -> SvgChart:
    """Draw the difference of the logits when only one part is in 8 bits. The bar is the mean, the tick the largest."""
    with drawing():
        units = calibration.sensitivities
        canvas, axes = listed_axes([unit.unit for unit in units])
        for place, unit in enumerate(units):
            colour, _ = style_of("int8")
            fill = PAPER if unit.restored else colour
            (bar,) = axes.barh([place], [unit.mean_abs_diff], height=0.6, color=fill, edgecolor=colour)
            back = ", back in FP32" if unit.restored else ""
            canvas.says(
                bar,
                f"{unit.unit}: mean {error(unit.mean_abs_diff)}, largest {error(unit.max_abs_diff)}, "
                f"{percent(unit.share)} % of the multiply-adds{back}",
            )
            axes.plot([unit.mean_abs_diff, unit.max_abs_diff], [place] * 2, color=MUTED, linewidth=0.8)
            axes.plot([unit.max_abs_diff], [place], color=MUTED, marker="|")
        axes.set_xlim(left=0)
        numbered(axes.xaxis)
        axes.set_xlabel("|logit − FP32|: bar mean, tick largest")
        return canvas.picture(name, f"Damage of {len(units)} parts alone in 8 bits")
