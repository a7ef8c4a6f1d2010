"""`app`, which the commands are registered with, and how they speak."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import __version__
from ..engine.errors import CrossrtError

if TYPE_CHECKING:
    from ..engine.bundle import Manifest

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


def models_of(manifest: "Manifest") -> list[str]:
    """A line for each precision that a bundle holds: its files, and how they passed."""
    lines = []
    for name, model in manifest.models.items():
        checked = model.parity
        proof = (
            "parity not checked"
            if checked is None
            else f"parity {'passed' if checked['passed'] else 'FAILED'}, max |difference| {checked['max_abs_diff']:.1e}"
        )
        share = (model.numerics or {}).get("eight_bit_share")
        integer = "" if share is None else f", {share:.1%} of the multiply-adds in 8 bits"
        backends = "".join(
            f", {'passed' if passed else 'FAILED'} as {backend} computes it"
            for backend, passed in model.backends.items()
        )
        others = "".join(
            f"; {file} {where}"
            for file, where in (
                (model.native_file, "for own kernels" + (" on GPUs" if name == "fp16" else "")),
                (model.gpu_file, "on GPUs"),
                (model.fused_file, "by ONNX Runtime on GPUs"),
            )
            if file is not None
        )
        lines.append(f"  {name:<12}  {model.file}, {proof}{backends}{integer}{others}")
    return lines
