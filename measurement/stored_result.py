"""`read_stored` reads a result that is stored as JSON and checks each field."""

import json
from pathlib import Path
from typing import Any, TypeVar

from ..engine.errors import BackendError, DataFileError

STRICT: Any = {"extra": "forbid", "strict": True, "allow_inf_nan": False}
"""pydantic's configuration, for `__pydantic_config__` of a result. Nested dataclasses inherit it. It allows no unknown field, no
text in place of a number, and no NaN or infinity."""

Result = TypeVar("Result")


def read_stored(result: type[Result], path: Path, *, kind: str, schema: int, command: str) -> Result:
    """Read a dataclass that `command` has written with this kind and schema.

    Raises DataFileError, naming the file and the line or the field, for anything else, and BackendError without pydantic.
    """
    try:
        from pydantic import TypeAdapter, ValidationError
    except ImportError:
        raise BackendError('reading a result needs pydantic: pip install "crossrt[report]"') from None
    try:
        text = path.read_text(encoding="utf-8")
        fields = json.loads(text)
    except OSError as error:
        raise DataFileError(f"{path} cannot be read ({error.strerror})") from error
    except json.JSONDecodeError as error:
        raise DataFileError(f"{path}, line {error.lineno}: the file is not JSON ({error.msg})") from error
    except (ValueError, RecursionError) as error:
        raise DataFileError(f"{path} is not JSON ({error})") from error
    if not isinstance(fields, dict) or fields.get("kind") != kind:
        raise DataFileError(f"{path} is not a result of {command}: its kind is not {kind!r}")
    if fields.get("schema") != schema:
        raise DataFileError(
            f"{path} has schema {fields.get('schema')}, and this crossrt reads {schema}: run {command} again with this one"
        )
    try:
        checked: Result = TypeAdapter(result).validate_json(text)
        return checked
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise DataFileError(
            f"{path} does not have the fields of schema {schema}: {where}: {first['msg']}; run {command} again"
        ) from error
