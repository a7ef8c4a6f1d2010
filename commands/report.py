"""`crossrt report` shows results as one page."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from .shared.app import app
from .shared.arguments import as_typed
from .shared.requirements import need_report


@app.command(epilog="Example:  crossrt report quality speeds.json minilm-l6 -o report.html")
def report(
    results: Annotated[
        list[Path],
        typer.Argument(
            help="Results of crossrt evaluate, crossrt bench and benchmarks/cpu.py, and bundles, in any order."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write; - is standard output.")],
    title: Annotated[str | None, typer.Option(help="Title of the page.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file even if it is not such a page.")] = False,
) -> None:
    """Show results as one page: tables, quality against speed, latencies, padding, parity and calibration."""
    from ..engine.files.publish import published_file

    need_report()
    from ..report.page.page import TITLE, check_page, page_of
    from ..report.results import Results

    check_page(out, force=force)
    page = page_of(Results.read(results), title=TITLE if not title else as_typed(title, "--title"))
    with published_file(out) as file:
        file.write(page)
    print(f"{out}: {len(page.encode()) / 1e6:.1f} MB", file=sys.stderr)
