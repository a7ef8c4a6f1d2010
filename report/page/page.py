"""`page_of` returns results as one self-contained HTML file."""

import re
from collections.abc import Sequence
from pathlib import Path

import jinja2

from ...engine.errors import OptionError
from ...engine.files.publish import STANDARD_OUTPUT
from ..results import Results
from .section import Section
from .sections import sections_of

HERE = Path(__file__).parent
TITLE = "Cross-encoders: quality, speed and error"
GENERATOR = '<meta name="generator" content="crossrt">'
MARKS = {"fp32": "●", "bf16": "■", "fp16": "◆", "int8": "▲"}


def page_of(results: Results, *, title: str = TITLE) -> str:
    """Return the page as HTML. Equal results and titles give equal bytes."""
    return _html(sections_of(results), title)


def check_page(target: Path, *, force: bool = False) -> None:
    """Raise OptionError if `target` cannot be written as a page.

    That is a directory, a path in a directory that does not exist and, without `force`, a file that is not such a page.
    """
    if target == STANDARD_OUTPUT:
        return
    if target.is_dir() or not target.absolute().parent.is_dir():
        where = "is a directory" if target.is_dir() else "is in a directory that does not exist"
        raise OptionError(f"{target} {where}; give a file to write, as report.html")
    if target.is_file() and not force:
        with target.open("rb") as file:
            if GENERATOR.encode() not in file.read(1000):
                raise OptionError(f"{target} is there already and is no page of crossrt; give another file, or --force")


def _html(sections: Sequence[Section], title: str) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["unbroken"] = _unbroken
    style = (HERE / "page.css").read_text(encoding="utf-8")
    return environment.get_template("page.html.jinja").render(
        title=title, sections=sections, style=style, marks=MARKS, generator=GENERATOR
    )


def _unbroken(text: str) -> str:
    """Keep a number and its percent sign on one line."""
    return re.sub(r"(?<=\d) %", "\N{NO-BREAK SPACE}%", text)
