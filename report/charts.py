"""The pictures beside the Pareto one: latencies, padding, lengths, parity, calibration, peers, curves."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline
from matplotlib.ticker import NullLocator

from ..speed.result import Curve, Latency, Speed, Workload
from .numbers import error, percent, rate
from .picture import ACCENT, INK, LINE, MUTED, PAPER, PRECISIONS, Canvas, Picture, decades, drawing, legend, numbered
from .results import Calibration, ModelConfig, Parity

WIDTH = 420
ROW, GAP = 12, 0.8
"""Units of height that a lane of a chart takes, and lanes that are left free between groups."""
MOST = 600
"""Points of a scatter that are drawn; more would cost a megabyte and show the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One row in a chart whose rows are grouped: the precisions of a `group` share its name."""

    group: str
    precision: str

    @property
    def says(self) -> str:
        """How it is called under the mouse."""
        return f"{self.group} {self.precision}"


def latencies(rows: Sequence[tuple[Lane, Latency]], *, name: str) -> Picture:
    """Draw, for requests of one size, each row's p50 as its precision's mark, and a line on to p95 and p99."""
    with drawing():
        canvas, axes, places = _lanes([lane for lane, _ in rows])
        axes.set_xscale("log")
        for (lane, latency), place in zip(rows, places, strict=True):
            colour, marker = _style(lane.precision)
            axes.plot([latency.p50_ms, latency.p99_ms], [place] * 2, color=colour, linewidth=1.4, alpha=0.6)
            axes.plot([latency.p95_ms, latency.p99_ms], [place] * 2, color=colour, marker="|", linestyle="")
            (mark,) = axes.plot([latency.p50_ms], [place], color=colour, marker=marker)
            canvas.says(
                mark,
                f"{lane.says}: p50 {rate(latency.p50_ms)}, p95 {rate(latency.p95_ms)}, p99 {rate(latency.p99_ms)} ms, "
                f"{latency.requests} requests",
            )
        decades(axes, 0.55 * WIDTH)
        axes.set_xlabel("ms: mark p50, ticks p95 and p99")
        return canvas.picture(name, f"Latency of {len(rows)} rows: p50, p95 and p99")


def padding(rows: Sequence[tuple[Lane, float]], *, name: str) -> Picture:
    """Draw each row's share of padding."""
    with drawing():
        canvas, axes, places = _lanes([lane for lane, _ in rows])
        for (lane, share), place in zip(rows, places, strict=True):
            (bar,) = axes.barh([place], [100 * share], color=_style(lane.precision)[0], height=0.62)
            canvas.says(bar, f"{lane.says}: {percent(share)} % of computed tokens are padding")
            _note(axes, percent(share), 100 * share, place)
        axes.set_xlim(left=0, right=max([1.0, *(100 * share for _, share in rows)]) * 1.2)
        numbered(axes.xaxis)
        axes.set_xlabel("% of computed tokens")
        return canvas.picture(name, f"Padding of {len(rows)} rows")


def lengths(workload: Workload, *, name: str) -> Picture:
    """Draw how long the pairs are, in steps of 16 tokens."""
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


def scatter(rows: Mapping[str, Speed], precision: str, *, name: str) -> tuple[Picture, int, int]:
    """Draw each pair's logit against the reference's, and below by how much it differs; also how many of how many pairs.

    `rows` all are of this precision and have a difference.
    """
    found = [
        (float(reference), float(logit))
        for row in rows.values()
        if row.difference
        for reference, logit in zip(row.difference.reference, row.difference.logits, strict=False)
        if math.isfinite(reference) and math.isfinite(logit)
    ]
    shown = found[:: max(1, math.ceil(len(found) / MOST))]
    colour, _ = _style(precision)
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


def parities(reports: Sequence[tuple[Lane, Parity]], *, name: str) -> Picture:
    """Draw how far each report's logits lie from PyTorch's: mark the mean, tick the largest, tall tick what is allowed."""
    with drawing():
        canvas, axes, places = _lanes([lane for lane, _ in reports])
        axes.set_xscale("log")
        for (lane, report), place in zip(reports, places, strict=True):
            colour, marker = _style(lane.precision)
            limit = report.tolerance.max_abs
            mean, most = (max(value, 1e-9) for value in (report.mean_abs_diff, report.max_abs_diff))
            if math.isfinite(most):
                axes.plot([mean, most], [place] * 2, color=colour, linewidth=1.4, alpha=0.6)
                axes.plot([most], [place], color=colour, marker="|")
                (mark,) = axes.plot([mean], [place], color=colour, marker=marker)
                canvas.says(
                    mark,
                    f"{lane.says}: mean {error(report.mean_abs_diff)}, largest {error(report.max_abs_diff)} of "
                    f"{limit:g} allowed",
                )
            (end,) = axes.plot([limit], [place], color=INK, marker="|", markersize=13, linestyle="")
            canvas.says(end, f"{lane.says}: {limit:g} allowed")
        decades(axes, 0.55 * WIDTH)
        axes.set_xlabel("|logit − PyTorch's|")
        return canvas.picture(name, f"Differences of {len(reports)} parity reports from PyTorch")


def damages(calibration: Calibration, *, name: str) -> Picture:
    """Draw what each part does to the logits when it alone is in 8 bits: bar the mean, tick the largest."""
    with drawing():
        units = calibration.sensitivities
        canvas, axes = _rows([unit.unit for unit in units])
        for place, unit in enumerate(units):
            colour, _ = _style("int8")
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


def systems(rows: Sequence[ModelConfig], *, name: str) -> Picture:
    """Draw each system's speed as a ratio to the reference's, with the 5th to 95th percentile. Ours stand out."""
    with drawing():
        canvas, axes = _rows([""] * len(rows), row=30)
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
            _note(axes, note, high, place + 0.2)
            # Above its bar: names are as long as the picture is wide on a phone.
            axes.annotate(row.system, (0, place - 0.08), xytext=(1, 0), textcoords="offset points", fontsize=9.5)
        axes.set_xlim(0, 1.4 * max(row.ratio_p5_p95[1] for row in rows if row.ratio_p5_p95))
        numbered(axes.xaxis)
        axes.axvline(1, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0.5)
        axes.set_xlabel("speed of PyTorch FP32: median, 5th to 95th percentile")
        return canvas.picture(name, f"Speed of {len(rows)} systems relative to PyTorch FP32")


def curves(found: Sequence[Curve], axis: str, *, name: str) -> Picture:
    """Draw how fast rows are along one axis: marks with their spread, and the fitted curve."""
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


def _lanes(lanes: Sequence[Lane]) -> tuple[Canvas, Axes, list[float]]:
    """Axes with a name for each group and a line for each of its lanes, and the lanes' heights on it."""
    groups = list(dict.fromkeys(lane.group for lane in lanes))
    ordered = sorted(range(len(lanes)), key=lambda index: groups.index(lanes[index].group))
    heights, middles, at = [0.0] * len(lanes), [], 0.0
    for group in groups:
        own = [index for index in ordered if lanes[index].group == group]
        for step, index in enumerate(own):
            heights[index] = at + step
        middles.append(at + (len(own) - 1) / 2)
        at += len(own) + GAP
    canvas, axes = _named(groups, middles, 66 + ROW * at)
    axes.set_ylim(at - GAP - 0.4, -0.6)
    legend(axes, [lane.precision for lane in lanes])
    return canvas, axes, heights


def _rows(names: Sequence[str], *, row: int = 15) -> tuple[Canvas, Axes]:
    """Axes with a named line for each row, the first on top."""
    canvas, axes = _named(names, range(len(names)), 46 + row * max(1, len(names)))
    axes.set_ylim(max(1, len(names)) - 0.4, -0.6)
    return canvas, axes


def _named(names: Sequence[str], places: Sequence[float], height: float) -> tuple[Canvas, Axes]:
    canvas = Canvas(WIDTH, height)
    axes = canvas.figure.subplots()
    most = WIDTH // 16
    axes.set_yticks(
        places, [name if len(name) <= most else f"{name[: most // 2]}…{name[-most // 2 :]}" for name in names]
    )
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(True, axis="x")
    return canvas, axes


def _note(axes: Axes, text: str, x: float, y: float) -> None:
    axes.annotate(text, (x, y), xytext=(6, 0), textcoords="offset points", va="center", fontsize=9.5)


def _style(precision: str) -> tuple[str, str]:
    return PRECISIONS.get(precision, (INK, "o"))


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


def _dots(axes: Axes, points: Sequence[tuple[float, float]], colour: str) -> None:
    """All points as one path of strokes without length, which round ends make dots: a tenth of what marks would take."""
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
