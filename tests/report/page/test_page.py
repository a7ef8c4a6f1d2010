"""The page: whole, the same each time, small, and as a browser shows it."""

import dataclasses
import html
import json
import re
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jinja2")

from crossrt.engine.errors import OptionError
from crossrt.report.page.page import check_page, page_of
from crossrt.report.proof import Calibration, Limits, Parity, Proof, Unit
from crossrt.report.results import Results

from ... import browser
from ..conftest import MODELS, failed_speed

REPOSITORY = Path(__file__).resolve().parents[3]
DRAWING = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 20 9"><text x="1" y="5">100% "&amp;#</text></svg>'


@pytest.fixture(scope="module")
def results(make_speeds: Callable[..., Any], make_evaluation: Callable[..., Any]) -> Results:
    """Return every kind of result, of all models: 45 rows and one that failed."""
    speeds = make_speeds(len(MODELS))
    rows = [*speeds.rows, failed_speed("nboost/pt-tinybert-msmarco", "fp16", "no <FP16> here")]
    proof = Proof(
        model="cross-encoder/ms-marco-MiniLM-L-6-v2",
        sha256="ab" * 32,
        tools={"torch": "2.13.0"},
        parities=[
            Parity(
                precision=precision,
                backend="onnxruntime",
                pairs=89,
                max_abs_diff=most,
                mean_abs_diff=most / 9,
                top10_overlap=0.97,
                tolerance=Limits(max_abs=limit),
                passed=most < limit,
            )
            for precision, most, limit in (("fp32", 5e-6, 1e-4), ("int8", float("inf"), 5.0))
        ],
        calibration=Calibration(
            recipe="projections, token",
            eight_bit_share=0.96,
            sensitivities=[
                Unit(unit="layer.0.output", mean_abs_diff=0.02, max_abs_diff=0.1, share=0.3, restored=True),
                Unit(unit="layer.1.output", mean_abs_diff=0.01, max_abs_diff=0.05, share=0.3),
            ],
            drawing=DRAWING,
        ),
    )
    peers = Results.read([REPOSITORY / "benchmarks/results/cpu_avx2.json"]).peers
    return Results(
        speeds=[("zoo.json", dataclasses.replace(speeds, rows=rows))],
        evaluations=[("quality.json", make_evaluation(4))],
        peers=peers,
        bundles=[("minilm", proof)],
    )


@pytest.fixture(scope="module")
def page(results: Results) -> str:
    return page_of(results, title="A <title> & more")


class Balanced(HTMLParser):
    """Fails for a tag that is closed and was not open; collects ids and addresses."""

    VOID = ("meta", "img", "link", "br", "hr", "input")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.note(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.note(attrs)

    def note(self, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src", "srcset", "action", "data")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_else(page: str) -> None:
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert len(set(parser.ids)) == len(parser.ids)
    own = {f"#{name}" for name in parser.ids}
    assert all(address in own or address.startswith("data:image/svg+xml,") for address in parser.addresses)
    assert "<script" not in page
    assert "default-src 'none'" in page
    assert "@import" not in page
    assert "url(http" not in page


def test_forty_five_rows_stay_below_two_megabytes(page: str) -> None:
    assert page.count('scope="row"') > 45
    assert len(page.encode()) < 2_000_000


def test_the_same_results_give_the_same_bytes(results: Results) -> None:
    assert page_of(results) == page_of(results)


def test_every_section_has_its_figures(page: str) -> None:
    titles = [html.unescape(title) for title in re.findall(r"<h3>(.*?)</h3>", page)]
    for expected in (
        "nDCG@10 against speed, lists/bm25.run.trec",
        "Published nDCG@10 against measured speed",
        "Latency, one query with 1 passage",
        "Latency, one query with 100 passages",
        "Padding waste",
        "Parity, BF16",
        "Parity, INT8",
        "Speed along tokens",
        "Speed of each system",
        "Differences from PyTorch",
        "INT8 calibration of MiniLM-L-6-v2",
    ):
        assert expected in titles
    assert "Parity, FP32" not in titles  # the reference itself


def test_figures_stand_with_their_spread_and_where_they_come_from(page: str) -> None:
    for said in (
        "5th to 95th percentile",
        "varied by 3.4\N{NO-BREAK SPACE}%",
        "Some Processor",
        "0123456789ab",
        "GFLOP/s",
    ):
        assert said in page
    assert re.search(r"<small>[+−]0\.\d{4}\n\([+−]0\.\d{4} to [+−]0\.\d{4}\)</small>", page)


def test_what_failed_says_why_and_markup_in_names_is_text(page: str) -> None:
    assert "no &lt;FP16&gt; here" in page
    assert "<h1>A &lt;title&gt; &amp; more</h1>" in page
    assert re.search(r"failed <small[^>]*>[^<]*bf16 is not what this processor computes in", page)  # of cpu_avx2.json
    assert "FAILED" in page  # the parity report of INT8


def test_each_kind_alone_makes_a_page(results: Results) -> None:
    for field in ("speeds", "evaluations", "peers", "bundles"):
        alone = page_of(Results(**{field: getattr(results, field)}))
        assert "Where the figures come from" in alone
        assert alone.count("<section") >= 2


def test_a_row_without_any_figure_is_no_trouble(make_speeds: Callable[..., Any]) -> None:
    failed = [failed_speed(next(iter(MODELS)), "bf16", "not here")]
    speeds = make_speeds(1, rows=failed, curves=[], ceilings=[])
    assert "not here" in page_of(Results(speeds=[("s.json", speeds)]))


def test_another_file_is_not_replaced_but_a_page_is(tmp_path: Path, results: Results) -> None:
    target = tmp_path / "report.html"
    check_page(target)
    target.write_text("a diary")
    with pytest.raises(OptionError, match="--force"):
        check_page(target)
    check_page(target, force=True)
    target.write_text(page_of(Results(peers=results.peers)))
    check_page(target)
    with pytest.raises(OptionError, match="is a directory"):
        check_page(tmp_path)
    with pytest.raises(OptionError, match="does not exist"):
        check_page(tmp_path / "none/report.html")


# -- in a browser

PROBE = """<!doctype html><meta charset="utf-8"><body style="margin: 0"><script>
const page = %s;
const told = {};
function measured(width) {
  return new Promise(done => {
    const frame = document.createElement("iframe");
    frame.style = `width: ${width}px; height: 900px; border: 0`;
    frame.onload = () => {
      const inside = frame.contentDocument;
      const drawn = [...inside.querySelectorAll("svg")].filter(svg => svg.checkVisibility());
      const boxes = svg => [...svg.querySelectorAll("text")]
        .map(text => [text.textContent, text.getBoundingClientRect()])
        .filter(([words]) => /(fp32|bf16|int8)$/.test(words))
        .map(([words, box]) => [words, box.left, box.top, box.right, box.bottom]);
      told[width] = {
        inner: frame.contentWindow.innerWidth,
        scroll: inside.documentElement.scrollWidth,
        body: Math.max(...[...inside.body.querySelectorAll("h1, h2, h3, p, figure, .scroll, .picture, figcaption")]
          .map(one => one.getBoundingClientRect().right)),
        sizes: drawn.map(svg => [svg.getBoundingClientRect().width, svg.getBoundingClientRect().height]),
        requests: frame.contentWindow.performance.getEntriesByType("resource")
          .map(entry => entry.name).filter(name => !name.startsWith("data:")),
        background: frame.contentWindow.getComputedStyle(inside.body).backgroundColor,
        ink: frame.contentWindow.getComputedStyle(drawn[0].querySelector("text")).fill,
        images: [...inside.images].map(image => image.naturalWidth),
        first_table: [...inside.querySelectorAll("#all .scroll")].map(box => box.scrollWidth - box.clientWidth),
        labels: drawn.filter(svg => svg.getAttribute("aria-label").includes("against pairs per second")).map(boxes),
      };
      done();
    };
    frame.srcdoc = page;
    document.body.append(frame);
  });
}
(async () => {
  for (const width of [390, 820, 1280, 1600]) await measured(width);
  document.body.textContent = "TOLD" + JSON.stringify(told) + "TOLD";
})();
</script>"""


@pytest.fixture(scope="module")
def chromium() -> str:
    return browser.required()


def opened(chromium: str, file: Path, folder: Path, *options: str, dark: bool = False) -> str:
    command = [
        chromium,
        *browser.OPTIONS,
        f"--user-data-dir={folder / 'profile'}",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        *options,
        file.as_uri(),
    ]
    return subprocess.run(command, capture_output=True, timeout=120, check=True).stdout.decode()


def measures(chromium: str, page: str, folder: Path, *, dark: bool = False) -> dict[str, Any]:
    probe = folder / "probe.html"
    probe.write_text(PROBE % json.dumps(page).replace("</", "<\\/"), encoding="utf-8")
    said = opened(chromium, probe, folder, "--virtual-time-budget=20000", "--dump-dom", dark=dark)
    found: dict[str, Any] = json.loads(html.unescape(said.split("TOLD")[1]))
    return found


@pytest.mark.browser
def test_a_browser_shows_the_page_at_every_width(chromium: str, page: str, tmp_path: Path) -> None:
    told = measures(chromium, page, tmp_path)
    assert set(told) == {"390", "820", "1280", "1600"}
    for width, found in told.items():
        assert found["inner"] == int(width)
        assert found["scroll"] <= int(width)  # nothing but a table's own box scrolls sideways
        assert found["body"] <= int(width)
        assert found["requests"] == []
        assert len(found["sizes"]) > 10
        assert all(wide > 250 and high > 60 for wide, high in found["sizes"])
        assert all(wide > 0 for wide in found["images"])
    for width in ("1280", "1600"):
        assert told[width]["first_table"][0] <= 0  # on a desk, the first table is seen whole
    # One of the two Pareto pictures is shown, and in it no label covers another.
    for width in ("390", "1600"):
        assert len(told[width]["labels"]) == 2
        for labels in told[width]["labels"]:
            assert len(labels) >= 12
            for place, (words, left, top, right, bottom) in enumerate(labels):
                for other, left2, top2, right2, bottom2 in labels[:place]:
                    across = min(right, right2) - max(left, left2)
                    down = min(bottom, bottom2) - max(top, top2)
                    assert across <= 1 or down <= 3, (width, words, other)


@pytest.mark.browser
def test_dark_is_dark_and_light_is_light(chromium: str, results: Results, tmp_path: Path) -> None:
    page = page_of(Results(peers=results.peers))
    light, dark = (measures(chromium, page, tmp_path, dark=dark)["820"] for dark in (False, True))
    assert light["background"] == "rgb(255, 255, 255)"
    assert sum(map(int, re.findall(r"\d+", dark["background"]))) < 150
    assert sum(map(int, re.findall(r"\d+", dark["ink"]))) > 450
    assert sum(map(int, re.findall(r"\d+", light["ink"]))) < 350


@pytest.mark.browser
def test_a_screenshot_is_not_blank(chromium: str, results: Results, tmp_path: Path) -> None:
    from matplotlib.image import imread

    file, shot = tmp_path / "report.html", tmp_path / "shot.png"
    file.write_text(page_of(Results(peers=results.peers)), encoding="utf-8")
    opened(chromium, file, tmp_path, f"--screenshot={shot}", "--window-size=390,1600")
    pixels = imread(shot)
    assert pixels.shape[:2] == (1600, 390)
    assert 0.6 < pixels[..., :3].mean() < 0.99  # white paper with something on it
