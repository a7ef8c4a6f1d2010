"""`app`, the typer application. Each command registers with it."""

from typing import Annotated

import typer

from ... import __version__
from .output import say

app = typer.Typer(
    help="MS MARCO cross-encoders, exported with proof and run fast.",
    no_args_is_help=True,
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
