"""A picture takes the page's colours, keeps its ids to itself, and is the same each time."""

import re
from xml.etree import ElementTree

import pytest

from crossrt.report.charts.svg_chart import ACCENT, COLOURS, Canvas, SvgChart, drawing


def made(name: str = "one", label: str = "$x_1$ & <y> 東") -> SvgChart:
    with drawing():
        canvas = Canvas(400, 200)
        axes = canvas.figure.subplots()
        (mark,) = axes.plot([1, 2], [3, 4], color=ACCENT, marker="o")
        axes.set_xlim(1, 1.5)
        canvas.says(mark, 'first <&> "second"')
        axes.set_title(label)
        return canvas.picture(name, label)


def test_no_colour_but_the_pages_is_left() -> None:
    svg = made().svg
    assert "var(--accent)" in svg
    assert not re.search(r"#[0-9a-f]{6}\b", svg)
    assert set(re.findall(r"var\(--(\w+)\)", svg)) <= set(COLOURS.values())


def test_text_is_text_and_escaped() -> None:
    svg = made().svg
    assert "$x_1$ &amp; &lt;y&gt; 東</text>" in svg
    assert '<title>first &lt;&amp;&gt; "second"</title>' in svg
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img"
    assert root.get("aria-label") == "$x_1$ & <y> 東"
    assert root.get("viewBox") == "0 0 400 200"


def test_nothing_is_left_that_holds_for_the_whole_page() -> None:
    svg = made().svg
    assert "<style" not in svg
    assert "<metadata" not in svg
    assert "http" not in svg


def test_ids_of_two_pictures_differ_and_all_references_are_met() -> None:
    one, other = made("one").svg, made("other").svg
    ids = [re.findall(r'\bid="([^"]+)"', svg) for svg in (one, other)]
    assert ids[0]
    assert not set(ids[0]) & set(ids[1])
    assert len(set(ids[0])) == len(ids[0])
    referred = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', one)
    assert referred
    assert {first or second for first, second in referred} <= set(ids[0])


def test_the_same_drawing_gives_the_same_bytes() -> None:
    assert made() == made()


@pytest.mark.parametrize("name", ["font-family", "DejaVu"])
def test_the_font_is_the_pages(name: str) -> None:
    assert name not in made().svg
