"""The chart of an INT8 calibration: the error that each group causes, and histograms of the worst tensors. Needs matplotlib."""

import importlib.util
from pathlib import Path
from typing import Any, cast

import numpy as np

from ...calibration.ranges import LEVELS
from .int8_result import Int8Result

WORST = 5
"""Number of groups whose histograms are drawn."""


def can_draw() -> bool:
    """Tell whether matplotlib is installed (the extra `report`)."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(result: Int8Result, file: Path) -> None:
    """Write an SVG: on the left the error with only one group in 8 bits, on the right activations of the five worst groups.

    The same calibration gives the same bytes.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure, SubFigure

    with mpl.rc_context({"svg.hashsalt": "crossrt", "svg.fonttype": "none", "font.size": 8}):
        bars = result.sensitivities
        figure = Figure(figsize=(11, max(5.0, 0.2 * len(bars) + 1)), layout="constrained")
        left, right = cast(tuple[SubFigure, SubFigure], figure.subfigures(1, 2, width_ratios=(3, 2)))
        axes = left.subplots()
        colors = ["tab:orange" if one.restored else "tab:blue" for one in bars]
        places = np.arange(len(bars))
        axes.barh(places, [one.mean_abs_diff for one in bars], color=colors)
        axes.plot([one.max_abs_diff for one in bars], places, "k|", label="largest")
        axes.set_yticks(places, [f"{one.group}  {one.share:.1%}" for one in bars])
        axes.invert_yaxis()
        axes.set_xlim(left=0)
        axes.set_xlabel("|logit - FP32| with this group alone in 8 bits: bar = mean; orange = back in FP32")
        axes.set_title(f"Damage, and share of the multiply-adds ({result.recipe})")
        axes.legend(loc="lower right")
        _histograms(result, right)
        figure.savefig(file, format="svg", metadata={"Date": None})


def _histograms(result: Int8Result, figure: Any) -> None:
    worst = [one.group for one in result.sensitivities[:WORST]]
    tensors = [next(point for point in result.points if point.group == group) for group in worst]
    panels = np.atleast_1d(figure.subplots(len(tensors), 1))
    for panel, point in zip(panels, tensors, strict=True):
        quantization = result.quantized[point.name]
        values = quantization.smoothed(result.stats[point.tensor].rows).ravel()
        panel.hist(values, bins=120, log=True, histtype="stepfilled", color="tab:gray")
        for end in (-LEVELS, LEVELS):
            panel.axvline(end * quantization.scale, color="tab:red", linewidth=0.8)
        panel.set_title(f"{point.tensor}, as 8 bits read it (red: where they end)", loc="left")
        panel.set_yticks([])
