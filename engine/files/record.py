"""Reads JSON from untrusted files into dataclasses.

`read_json` and `parsed` limit the size of the text before they parse it. `record` checks every value against the annotations of a
dataclass. All raise ValueError; its message reads well after the file's name, as in `FILE (MESSAGE)`.
"""

import dataclasses
import functools
import json
import math
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from ..errors import OptionError

MAX_BYTES = 1 << 26
"""Largest accepted JSON text, in bytes. A manifest has about ten thousand; every file that crossrt writes has less than a
thousandth of this."""
MAX_DEPTH = 100
"""Deepest nesting of lists and objects. The files of checkpoints and bundles have fewer than ten levels."""
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
"""Matches the escape of a surrogate. A pair of surrogates is a character; a lone one cannot be encoded in UTF-8."""
MAX_INTEGER = (1 << 63) - 1
"""Largest absolute value of an integer in a record."""

Record = TypeVar("Record")


def read_json(path: Path) -> Any:
    """Parse a JSON file as `parsed` does. Raises OSError for a file that cannot be read."""
    return parsed(read_text(path, max_bytes=MAX_BYTES))


def read_text(path: Path, *, max_bytes: int) -> str:
    """Return the text of a UTF-8 file of at most `max_bytes` bytes.

    Raises OSError for a file that cannot be read, and ValueError for a larger file and for one that is not UTF-8.
    """
    with path.open("rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"it has more than {max_bytes:,} bytes, which is no size for such a file")
    return content.decode()


def parsed(text: str) -> Any:
    """Parse a JSON text.

    Raises ValueError for a text that is not JSON, is too large or nested too deeply, or holds NaN, Infinity or a lone surrogate.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES:,} bytes, which is no size for such a file")
    try:
        value = json.loads(text, parse_constant=_refused)
        check_depth(value)
        if SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def check_depth(value: Any) -> None:
    """Raise RecursionError if lists and objects of a JSON value are nested more than `MAX_DEPTH` deep.

    From Python 3.12 on, `json.loads` reads values that are nested more deeply than functions written in Python can follow.
    """
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        lists = [each for each in level if isinstance(each, list)]
        objects = [each.values() for each in level if isinstance(each, dict)]
        if not lists and not objects:
            return
        level = [inner for outer in (*lists, *objects) for inner in outer]
    raise RecursionError(f"nested more than {MAX_DEPTH} deep")


def record(kind: type[Record], value: Any, at: str = "") -> Record:
    """Return a dataclass made from a parsed JSON object. A missing field gets its default; an unknown field is an error.

    `at` is the path of the value in messages. Raises ValueError, naming the field, its expected type and the value found.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{at or 'it'} is {_shown(value)}, expected an object")
    expected = _fields(typing.cast(Any, kind))
    unknown = [name for name in value if name not in expected]
    if unknown:
        raise ValueError(f"{_inside(at, unknown[0])} is not known")
    missing = [name for name, (_, needed) in expected.items() if needed and name not in value]
    if missing:
        raise ValueError(f"{_inside(at, missing[0])} is missing")
    fields = {name: _value(expected[name][0], each, _inside(at, name)) for name, each in value.items()}
    try:
        return kind(**fields)
    except OptionError as error:
        raise ValueError(f"{at or 'it'}: {error}") from error


@functools.cache
def _fields(kind: Any) -> dict[str, tuple[Any, bool]]:
    """Return the type of each field, and whether it is required."""
    hints = typing.get_type_hints(kind)
    return {
        field.name: (
            hints[field.name],
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING,
        )
        for field in dataclasses.fields(kind)
    }


def _value(kind: Any, value: Any, at: str) -> Any:
    if kind is Any:
        return value
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _any_of(arguments, value, at)
    if origin is typing.Literal:
        if not isinstance(value, str) or value not in arguments:
            raise ValueError(f"{at} is {_shown(value)}, expected {' or '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        return _tuple(arguments, value, at)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise ValueError(f"{at} is {_shown(value)}, expected an object")
        return {name: _value(arguments[1], each, f"{at}[{name!r:.40}]") for name, each in value.items()}
    if dataclasses.is_dataclass(kind):
        assert isinstance(kind, type)
        return record(kind, value, at)
    if kind is float and type(value) is int:  # JSON does not distinguish 2 from 2.0
        value = float(value) if abs(value) <= MAX_INTEGER else value
    if (
        type(value) is not kind
        or (kind is int and abs(value) > MAX_INTEGER)
        or (kind is float and not math.isfinite(value))
    ):
        raise ValueError(f"{at} is {_shown(value)}, expected {_named(kind)}")
    return value


def _any_of(kinds: tuple[Any, ...], value: Any, at: str) -> Any:
    if value is None and types.NoneType in kinds:
        return None
    others = [kind for kind in kinds if kind is not types.NoneType]
    if len(others) == 1:
        return _value(others[0], value, at)
    for kind in others:
        try:
            return _value(kind, value, at)
        except ValueError:
            continue
    raise ValueError(f"{at} is {_shown(value)}, expected {' or '.join(map(_named, kinds))}")


def _tuple(kinds: tuple[Any, ...], value: Any, at: str) -> tuple[Any, ...]:
    many = len(kinds) == 2 and kinds[1] is Ellipsis
    if not isinstance(value, list) or (not many and len(value) != len(kinds)):
        raise ValueError(f"{at} is {_shown(value)}, expected a list{'' if many else f' of {len(kinds)}'}")
    wanted = [kinds[0]] * len(value) if many else kinds
    return tuple(
        _value(kind, each, f"{at}[{index}]") for index, (kind, each) in enumerate(zip(wanted, value, strict=True))
    )


def _refused(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number in JSON")


def _inside(at: str, name: str) -> str:
    return f"{at}.{name:.60}" if at else f"{name:.60}"


def _named(kind: Any) -> str:
    names = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", types.NoneType: "null"}
    return names.get(kind, "an object")


def _shown(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else f"a list of {len(value)}"
    if type(value) is int and abs(value) > MAX_INTEGER:  # Python refuses to print integers of more than 4,300 digits
        return f"a number of {value.bit_length()} bits"
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 40 else text[:37] + "..."
