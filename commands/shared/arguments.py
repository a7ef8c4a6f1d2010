"""Parse arguments of the command line."""

import os
from collections.abc import Sequence
from pathlib import Path

from ...engine.errors import OptionError
from ...engine.files.source import STANDARD_INPUT, contains_file
from ...engine.precision import Precision


def as_typed(text: str, what: str) -> str:
    """Return an argument as it was typed. In an ASCII locale Python leaves UTF-8 undecoded, as surrogates.

    Raises OptionError, whose message begins with `what`, for bytes that are not UTF-8.
    """
    try:
        return os.fsencode(text).decode() if any("\udc80" <= letter <= "\udcff" for letter in text) else text
    except UnicodeDecodeError:
        raise OptionError(f"{what} {text!r} is not valid UTF-8") from None


def precisions_of(text: str) -> list[Precision]:
    """Parse precisions separated by commas, without duplicates. Raises OptionError for an unknown one."""
    known = [precision.value for precision in Precision]
    given = [name.strip().lower() for name in text.split(",")]
    if unknown := [name for name in given if name not in known]:
        raise OptionError(f"unknown precision {unknown[0]!r}; one of {', '.join(known)}, or several with commas")
    return [Precision(name) for name in dict.fromkeys(given)]


def whole_numbers(option: str, text: str) -> list[int]:
    """Parse whole numbers from 1, separated by commas, without duplicates. Raises OptionError, naming the option, for others."""
    try:
        numbers = [int(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise OptionError(f"{option} {text!r}: give whole numbers from 1, as 1,2")
    return list(dict.fromkeys(numbers))


Files = Path | Sequence[str | Path] | None
"""The value of an option that names files."""


def check_output_is_no_input(out: Path, **files: Files) -> None:
    """Raise OptionError if `out` is a file that is read: it would be replaced. `files` are the file options, by option name."""
    for name, given in files.items():
        if contains_file([word for word in _words(given) if word != STANDARD_INPUT], out):
            raise OptionError(
                f"--out {out} is also read by {option_of(name)}, and would be replaced; give another file"
            )


def check_standard_input(**files: Files) -> None:
    """Raise OptionError if `-` is given more than once. `files` are the values of the file options, by option name."""
    if [word for given in files.values() for word in _words(given)].count(STANDARD_INPUT) > 1:
        *others, last = map(option_of, files)
        raise OptionError(f"only one of {', '.join(others)} and {last} can be - (standard input)")


def refuse(why: str, **options: object) -> None:
    """Raise OptionError, naming them and saying `why`, for options that were given. None and False are options that were not."""
    given = [option_of(name) for name, value in options.items() if value is not None and value is not False]
    if given:
        raise OptionError(f"{', '.join(given)}: {why}")


def _words(given: Files) -> list[str]:
    return [str(word) for word in ([given] if isinstance(given, Path) else given or ())]


def option_of(name: str) -> str:
    """Return an option as it is typed, from the name of its parameter."""
    return f"--{name.replace('_', '-')}"
