"""Read JSON files into dataclasses and check their fields."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from ..engine.errors import DataFileError

KNOWN = (
    "what is known: the result.json of `crossrt evaluate`, or its folder; the result of `crossrt bench`; the result of "
    "benchmarks/cpu.py; a bundle's directory"
)

Kind = TypeVar("Kind")


def fields_of(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises DataFileError, naming the file and the known kinds of results, for anything else."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataFileError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise DataFileError(f"{path} is not JSON ({error}); {KNOWN}") from error
    if not isinstance(fields, dict):
        raise DataFileError(f"{path} is no result that a page is made of; {KNOWN}")
    return fields


def checked_fields(kind: type[Kind], path: Path, fields: Mapping[str, Any]) -> Kind:
    """Make a dataclass from a file's fields, and ignore fields that it does not have.

    Raises DataFileError, naming the file and the field, for a field that is missing or of another type.
    """
    try:
        return TypeAdapter(kind).validate_python(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataFileError(
            f"{path} does not have the fields it should: {where}: {first['msg']}; make it again"
        ) from error
