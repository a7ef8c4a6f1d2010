"""Options from the TOML file of a command's option `--config`, and its tables of models."""

from pathlib import Path
from typing import Any

import typer

from ...engine.errors import OptionError

MODELS = "models"
"""Name of the table that holds a table for each model."""


def defaults_from_file(context: typer.Context, file: Path | None) -> Path | None:
    """Take the options of a TOML file as defaults of the command, and return the file. This is the callback of an eager option.

    The command line and environment variables take precedence. Raises OptionError for a file that cannot be read, for a name that
    is none of the command's options, and for a single value in place of a list or the reverse.
    """
    if file is None:
        return None
    options = _read(file)
    known = {parameter.name: parameter for parameter in context.command.params}
    for name, value in options.items():
        if name == MODELS:
            continue
        if name not in known:
            raise OptionError(f"{file}: {name!r} is no option; crossrt {context.info_name} --help lists them")
        # typer would take a text for the list of its letters, and a list or a table for a text.
        several = bool(getattr(known[name], "multiple", False))
        if isinstance(value, dict) or isinstance(value, list) is not several:
            raise OptionError(
                f"{file}: {name} is {value!r}; give {'a list, as [...]' if several else 'a single value'}"
            )
    context.default_map = {name: value for name, value in options.items() if name != MODELS}
    return file


def model_tables(file: Path | None, known: set[str]) -> dict[str, dict[str, Any]]:
    """Return the options of each model in the file, by model name. Raises OptionError for options other than `known`."""
    tables = {} if file is None else _read(file).get(MODELS, {})
    if not isinstance(tables, dict):
        raise OptionError(f'{file}: models is no table; write [models.NAME], and below it bundle = "PATH"')
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise OptionError(f"{file}: models.{name} is no table; write [models.{name}] and its options below")
        unknown = set(table) - known
        if unknown:
            raise OptionError(
                f"{file}: models.{name} has {sorted(unknown)[0]!r}; a model takes {', '.join(sorted(known))}"
            )
    return dict(tables)


def _read(file: Path) -> dict[str, Any]:
    """Return the file's content, with `_` for `-` in option names."""
    import tomllib  # new in Python 3.11, which only the server requires

    try:
        with file.open("rb") as opened:
            return _with_underscores(tomllib.load(opened))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"{file} cannot be read as TOML: {error}") from error


def _with_underscores(options: dict[str, Any]) -> dict[str, Any]:
    """Return options with `_` for `-` in their names. The names of models stay."""
    renamed = {name.replace("-", "_"): value for name, value in options.items()}
    models = renamed.get(MODELS)
    if isinstance(models, dict):
        renamed[MODELS] = {
            name: _with_underscores(table) if isinstance(table, dict) else table for name, table in models.items()
        }
    return renamed
