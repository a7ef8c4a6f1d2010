"""`app`, which the commands are registered with, and how they speak."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from .. import __version__
from ..engine.errors import CrossrtError

app = typer.Typer(
    help="MS MARCO cross-encoders, exported with proof and run fast.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(value: bool) -> None:
    if value:
        say(f"crossrt {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and stop.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """MS MARCO cross-encoders, exported with proof and run fast."""


def say(text: str) -> None:
    """Print a line. Raises CrossrtError when whoever reads has gone."""
    # typer.echo hides a closed pipe, and typer itself ends on one without a word.
    try:
        print(text, flush=True)
    except BrokenPipeError as error:
        # Python flushes stdout once more at exit; it must find something it can write to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise CrossrtError("the reader of the output went away before its end") from error


def for_a_person() -> bool:
    """Tell whether a person looks on, who wants to see progress."""
    return sys.stderr.isatty()


def size_of(directory: Path) -> str:
    """The size of a folder's files, for a person."""
    size = sum(file.stat().st_size for file in directory.iterdir())
    return f"{size / 1e6:,.1f} MB"
