"""The documentation site: builds without a warning, needs no network, and every link in it leads somewhere."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import tomllib

pytest.importorskip("zensical")

import crossrt
from crossrt.engine import errors

from . import browser

REPOSITORY = Path(__file__).resolve().parents[1]
WIDTHS = (390, 1280)
SEARCH = "[...document.querySelectorAll('*')].find(element => element.shadowRoot)?.shadowRoot"
"""The search's own part of a page."""


class Parsed(HTMLParser):
    """The ids of a page, where its links lead, and what a browser loads to show it."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.text: list[str] = []
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attrs if value is not None}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "link" and values.get("rel") not in ("canonical", "next", "prev"):
            self.loaded.append(values.get("href", ""))
        self.loaded += [values[name] for name in ("src", "srcset", "poster") if name in values]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


parsed = cache(Parsed)


@pytest.fixture(scope="module")
def docs(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("docs")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the site as `scripts/docs` builds it."""
    out = tmp_path_factory.mktemp("site") / "site"
    command = [sys.executable, str(REPOSITORY / "scripts/docs.py"), str(out)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return out


def pages(site: Path) -> list[Path]:
    return [file for file in sorted(site.rglob("*.html")) if file.name not in ("404.html", "report.html")]


def in_nav(entries: list[Any]) -> Iterator[str]:
    for entry in entries:
        if isinstance(entry, str):
            yield entry
        else:
            for below in entry.values():
                yield from [below] if isinstance(below, str) else in_nav(below)


def test_every_page_is_in_the_navigation_and_in_the_site(site: Path, docs: ModuleType) -> None:
    nav = sorted(in_nav(tomllib.loads((REPOSITORY / docs.CONFIG).read_text())["project"]["nav"]))
    written = [str(file.relative_to(REPOSITORY / "docs")) for file in (REPOSITORY / "docs").rglob("*.md")]
    assert nav == sorted([*written, *docs.GENERATED])
    for page in nav:
        made = site / page.replace("README.md", "index.md").replace(".md", ".html")
        assert made.is_file(), f"{page} is not in the site"


def test_nothing_is_loaded_from_a_network(site: Path) -> None:
    outside = re.compile(r"(https?:)?//")
    for page in pages(site):
        assert [address for address in parsed(page).loaded if outside.match(address)] == [], page
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", text), style


def test_every_link_and_anchor_inside_the_site_resolves(site: Path) -> None:
    broken = []
    for page in pages(site):
        for link in {*parsed(page).links, *parsed(page).loaded}:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            target = target / "index.html" if target.is_dir() else target
            anchors = parsed(target).ids if target.suffix == ".html" and target.is_file() else set()
            if not target.is_file() or (parts.fragment and unquote(parts.fragment) not in anchors):
                broken.append(f"{page.relative_to(site)}: {link}")
    assert broken == []


def test_the_reference_names_every_command_and_every_option(site: Path) -> None:
    import typer.main

    from crossrt.__main__ import app

    text = " ".join(parsed(site / "command-line.html").text)
    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        assert f"crossrt {name}" in parsed(site / "command-line.html").text
        for parameter in command.params:
            if parameter.param_type_name == "option" and not parameter.hidden:
                assert set(parameter.opts) <= set(text.split()), f"{name} {parameter.opts}"


def test_the_reference_has_every_public_name_and_every_error(site: Path) -> None:
    ids = parsed(site / "api.html").ids
    assert {f"crossrt.{name}" for name in crossrt.__all__ if name != "__version__"} <= ids
    for member in ("CrossEncoder.predict", "CrossEncoder.rank", "CrossEncoder.close", "Bundle.open"):
        assert f"crossrt.{member}" in ids, member
    raised = [
        name for name, value in vars(errors).items() if isinstance(value, type) and value.__module__ == errors.__name__
    ]
    assert {f"crossrt.engine.errors.{name}" for name in raised if name != "CrossrtError"} <= ids
    explained = set(parsed(site / "errors.html").text)
    assert set(raised) - {"CrossrtError"} <= explained


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("[a page](nowhere.md)", "nowhere.md"),
        ("[an anchor](bundle.md#nowhere)", "nowhere"),
        ("::: crossrt.Nowhere", "Nowhere"),
    ],
)
def test_what_leads_nowhere_fails_the_build(
    words: str, said: str, docs: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    docs.prepare(tmp_path)
    with (tmp_path / "docs/rag.md").open("a", encoding="utf-8") as page:
        page.write(f"\n{words}\n")
    assert docs.build(tmp_path) != 0
    assert said in "".join(capsys.readouterr())


def test_a_folder_that_is_no_site_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("dear diary")
    command = [sys.executable, str(REPOSITORY / "scripts/docs.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "is no site" in done.stderr
    assert (tmp_path / "diary.txt").is_file()


# -- in a browser


@pytest.fixture(scope="module")
def page(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Page]:
    with browser.page(browser.required(), tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.browser
def test_pages_fit_a_phone_and_a_desk_and_ask_no_network(site: Path, page: browser.Page) -> None:
    for name in ("index", "precisions", "measurements", "api", "command-line", "architecture", "decisions/index"):
        for width in WIDTHS:
            page.open((site / f"{name}.html").as_uri(), width=width)
            assert page.evaluate("innerWidth") == width
            assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} at {width}"
            assert [url for url in page.requests if not url.startswith(("file:", "data:", "blob:"))] == []


@pytest.mark.browser
def test_the_search_finds_a_word_without_a_server(site: Path, page: browser.Page) -> None:
    page.open((site / "index.html").as_uri())
    page.evaluate("document.querySelector('.md-search__button').click()")
    page.wait_for(f"{SEARCH}.querySelector('input')?.checkVisibility()")
    page.evaluate(f"{SEARCH}.querySelector('input').focus()")
    page.call("Input.insertText", text="gunicorn")
    links = f"[...{SEARCH}.querySelectorAll('a')].map(link => link.href)"
    page.wait_for(f"{links}.length")
    assert any("processes.html" in address for address in page.evaluate(links))


def test_without_a_browser_the_tests_that_need_one_are_skipped_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "grep").symlink_to(shutil.which("grep") or "")
    bash = shutil.which("bash") or ""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(pytest.skip.Exception, match="no chromium"):
        browser.required()
    script = "set -euo pipefail; . scripts/browser; install_browser; tell_skipped_for_want_of_a_browser"
    done = subprocess.run([bash, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, *named = done.stdout.splitlines()
    assert "no chromium" in first
    assert len(named) == 14
    assert "tests/report/page/test_page.py::test_a_screenshot_is_not_blank" in named
