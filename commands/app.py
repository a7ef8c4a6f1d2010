"""`app`, which the commands are registered with, and how they speak."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import __version__
from ..engine.errors import OptionError

if TYPE_CHECKING:
    from ..engine.bundle.manifest import Manifest

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


def say(text: str) -> None:
    """Print a line, at once. Raises BrokenPipeError when whoever reads has gone, which ends the command quietly."""
    print(text, flush=True)  # typer.echo would hide a closed pipe


def say_json(value: Any) -> None:
    """Print a value as JSON: as it is where the terminal shows every character, and else with escapes, which is JSON too."""
    everything = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "").startswith("utf")
    say(json.dumps(value, ensure_ascii=not everything, indent=2))


def as_typed(text: str, what: str) -> str:
    """Return an argument as it was typed: where the locale is ASCII's, Python leaves the bytes of UTF-8 undecoded.

    Raises OptionError, with `what` it is, for bytes that are not UTF-8.
    """
    try:
        return os.fsencode(text).decode() if any("\udc80" <= letter <= "\udcff" for letter in text) else text
    except UnicodeDecodeError:
        raise OptionError(f"{what} {text!r} is not valid UTF-8") from None


def for_a_person() -> bool:
    """Tell whether a person looks on, who wants to see progress."""
    return sys.stderr.isatty()


def size_of(directory: Path) -> str:
    """The size of a folder's files, for a person."""
    size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
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
                (model.native_file, "for native kernels" + (" on GPUs" if name == "fp16" else "")),
                (model.gpu_file, "on GPUs"),
                (model.fused_file, "by ONNX Runtime on GPUs"),
            )
            if file is not None
        )
        lines.append(f"  {name:<12}  {model.file}, {proof}{backends}{integer}{others}")
    return lines
