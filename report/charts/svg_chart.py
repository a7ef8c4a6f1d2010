"""`SvgChart`: an SVG drawn with matplotlib that uses the colours of its page.

matplotlib draws in `COLOURS`, and each colour becomes a CSS variable, so that one drawing works on light and dark pages and on
paper. Text stays text. Tooltips are SVG `<title>` elements.
"""

import io
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

INK, MUTED, LINE, PAPER, ACCENT = "#1b1d21", "#5c636e", "#d9dde3", "#fefefe", "#0b6e99"
# Colours of Okabe and Ito, which colour-blind people can tell apart. Each precision also has its own marker shape.
PRECISIONS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {"fp32": ("#0072b2", "o"), "bf16": ("#009e73", "s"), "fp16": ("#b5568f", "D"), "int8": ("#d55e00", "^")}
)
COLOURS: Mapping[str, str] = MappingProxyType(
    {INK: "ink", MUTED: "muted", LINE: "line", PAPER: "paper", ACCENT: "accent"}
    | {colour: precision for precision, (colour, _) in PRECISIONS.items()}
)
STYLE: Any = {  # Any: matplotlib's type of the keys is a Literal of all names
    "svg.fonttype": "none",
    "svg.hashsalt": "crossrt",
    "text.parse_math": False,  # a $ in a name does not start a formula
    "font.size": 10.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
    "lines.markersize": 6.5,
    "lines.markeredgewidth": 1.2,
    "figure.constrained_layout.use": True,
}
UNIT = 72
"""Drawing units per matplotlib inch. A font of 10 points is 10 units high, and a unit is a pixel if nothing is scaled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SvgChart:
    """`svg` is for inline use in HTML. At `width` pixels its text has its nominal size."""

    svg: str
    width: int


class Canvas:
    """A figure that is being drawn, and the tooltips of its points."""

    def __init__(self, width: int, height: float) -> None:
        self.width = width
        self.figure = Figure(figsize=(width / UNIT, height / UNIT), dpi=UNIT)
        self._agg = FigureCanvasAgg(self.figure)
        self._said: dict[str, str] = {}

    def settle(self) -> None:
        """Fix the layout. The position of a point in pixels is final from then on."""
        self.figure.draw_without_rendering()
        self.figure.set_layout_engine("none")

    def size(self, text: str, font: FontProperties) -> tuple[float, float]:
        """Return a text's width and height in pixels in matplotlib's font, which is wider than most fonts of browsers."""
        renderer = self._agg.get_renderer()  # type: ignore[no-untyped-call]
        width, height, _ = renderer.get_text_width_height_descent(text, font, ismath=False)
        return width, height

    def says(self, artist: Artist, text: str) -> None:
        """Give an artist this tooltip."""
        name = f"said-{len(self._said)}"
        artist.set_gid(name)
        self._said[name] = text

    def picture(self, name: str, label: str) -> SvgChart:
        """Return the drawing. `name` makes its ids unique on the page, `label` is for screen readers."""
        file = io.StringIO()
        with _glyphs_are_the_browsers():
            self.figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        root = ElementTree.fromstring(file.getvalue())
        _clean(root, name, self._said)
        root.attrib.clear()
        root.attrib |= {
            "viewBox": f"0 0 {self.figure.bbox.width:g} {self.figure.bbox.height:g}",
            "role": "img",
            "aria-label": label,
        }
        return SvgChart(svg=ElementTree.tostring(root, encoding="unicode"), width=self.width)


@contextmanager
def drawing() -> Iterator[None]:
    """Draw in the style of the page inside this context."""
    with mpl.rc_context(STYLE), _glyphs_are_the_browsers():
        yield


@contextmanager
def _glyphs_are_the_browsers() -> Iterator[None]:
    """Silence warnings about letters that matplotlib's font lacks, since the browser has them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def numbered(axis: Axis, written: Callable[[float], str] = "{:,g}".format) -> None:
    """Format the numbers of an axis with `written`, and with U+2212 for minus."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: written(value).replace("-", "\N{MINUS SIGN}")))


def decades(axes: Axes, room: float) -> None:
    """Label a logarithmic x-axis with as many numbers per decade as fit into `room` pixels."""
    low, high = axes.get_xlim()
    choices = ((1, 2, 5), (1, 3), (1,))
    span = math.log10(high / low)
    axes.xaxis.set_major_locator(
        LogLocator(subs=next((subs for subs in choices if (span * len(subs) + 1) * 40 < room), (1,)))
    )
    axes.xaxis.set_minor_locator(NullLocator())
    numbered(axes.xaxis)


def legend(axes: Axes, present: Iterable[str]) -> None:
    """Add a legend above the axes with the marker of each precision that is present."""
    found = {*present}
    marks = [
        Line2D([], [], color=colour, marker=marker, linestyle="", label=precision.upper())
        for precision, (colour, marker) in PRECISIONS.items()
        if precision in found
    ]
    if marks:
        axes.legend(
            handles=marks,
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=len(marks),
            frameon=False,
            borderpad=0.2,
            handletextpad=0,
            columnspacing=1,
        )


_COLOUR = re.compile("|".join(COLOURS))
_NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
_DRAWN = ("d", "x", "y", "width", "height", "transform", "points")


def _clean(element: ElementTree.Element, name: str, said: Mapping[str, str]) -> None:
    """Remove what a page does not need, make ids unique, and turn colours into CSS variables."""
    element.tag = element.tag.rpartition("}")[2]
    for child in [*element]:
        if child.tag.rpartition("}")[2] in ("metadata", "style"):  # a style element would apply to the whole page
            element.remove(child)
        else:
            _clean(child, name, said)
    for key in [*element.attrib]:
        value = element.attrib.pop(key)
        key = key.rpartition("}")[2]
        if key == "id":
            if value in said:
                title = ElementTree.Element("title")
                title.text = said[value]
                element.insert(0, title)
            if element.tag not in ("clipPath", "path", "g") or re.match(r"(?!said-)[pmC]\w*[0-9a-f]{8}", value) is None:
                continue
            value = f"{name}-{value}"
        elif key == "href":
            value = value.replace("#", f"#{name}-")
        elif key == "clip-path":
            value = value.replace("url(#", f"url(#{name}-")
        elif key == "style":
            # Keep the size and drop the font, which the page sets. matplotlib before 3.11 writes both as one property.
            value = re.sub(r"font: ([\d.]+px) [^;]*", r"font-size: \1", value)
            value = re.sub(r"font-family: [^;]*(; )?", "", value)
            value = _COLOUR.sub(lambda found: f"var(--{COLOURS[found[0]]})", value)
        elif key in _DRAWN:
            value = _NUMBER.sub(lambda found: f"{float(found[0]):.1f}".replace(".0", ""), value).replace("\n", " ")
            value = value.replace("rotate(-0 ", "rotate(0 ").strip()
        element.set(key, value)
