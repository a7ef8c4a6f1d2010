"""JSON becomes a dataclass if every value has its type; otherwise the error names the field."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from crossrt.engine.errors import OptionError
from crossrt.engine.files import record as module
from crossrt.engine.files.record import parsed, read_json, record


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    name: str
    size: int = 1

    def __post_init__(self) -> None:
        if self.size < 0:
            raise OptionError("a size below 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    text: str
    number: int
    share: float
    flag: bool
    maybe: str | None
    either: int | str
    shape: tuple[int, int]
    parts: tuple[Part, ...]
    by_name: Mapping[str, Part]
    anything: Mapping[str, Any]
    more: dict[str, int] = field(default_factory=dict)


WHOLE: dict[str, Any] = {
    "text": "é",
    "number": 3,
    "share": 0.5,
    "flag": True,
    "maybe": None,
    "either": "x",
    "shape": [1, 2],
    "parts": [{"name": "a"}, {"name": "b", "size": 2}],
    "by_name": {"c": {"name": "c"}},
    "anything": {"deep": [{"er": None}]},
}


def test_a_record_has_the_types_of_its_annotations() -> None:
    made = record(Whole, WHOLE)
    assert made.parts == (Part(name="a"), Part(name="b", size=2))
    assert (made.shape, made.by_name, made.more) == ((1, 2), {"c": Part(name="c")}, {})
    whole_share = record(Whole, WHOLE | {"share": 2, "either": 5})
    assert (whole_share.share, type(whole_share.share), whole_share.either) == (2.0, float, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": 3}, "text is 3, expected a text"),
        ({"text": None}, "text is null, expected a text"),
        ({"number": True}, "number is true, expected a whole number"),
        ({"number": 2.0}, r"number is 2\.0, expected a whole number"),
        ({"number": "3"}, 'number is "3", expected a whole number'),
        ({"number": 2**63}, "number is a number of 64 bits, expected a whole number"),
        ({"number": 10**4000}, "number is a number of 13288 bits"),
        ({"share": 1e999}, "share is Infinity, expected a number"),
        ({"share": 10**400}, "share is a number of 1329 bits, expected a number"),
        ({"share": -(10**400)}, "share is a number of 1329 bits, expected a number"),
        ({"share": "1"}, 'share is "1", expected a number'),
        ({"flag": 1}, "flag is 1, expected true or false"),
        ({"maybe": 1}, "maybe is 1, expected a text"),
        ({"either": None}, "either is null, expected a whole number or a text"),
        ({"shape": [1, 2, 3]}, "shape is a list of 3, expected a list of 2"),
        ({"shape": [1, "2"]}, r'shape\[1\] is "2", expected a whole number'),
        ({"parts": {}}, "parts is an object, expected a list"),
        ({"parts": [{"name": "a"}, []]}, r"parts\[1\] is a list of 0, expected an object"),
        ({"parts": [{"size": 1}]}, r"parts\[0\]\.name is missing"),
        ({"parts": [{"name": "a", "colour": 1}]}, r"parts\[0\]\.colour is not known"),
        ({"parts": [{"name": "a", "size": -1}]}, r"parts\[0\]: a size below 0"),
        ({"by_name": []}, "by_name is a list of 0, expected an object"),
        ({"by_name": {"c": 1}}, r"by_name\['c'\] is 1, expected an object"),
        ({"text": "x" * 99, "flag": "y" * 99}, 'flag is "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy..., expected'),
    ],
)
def test_a_value_of_another_type_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        record(Whole, WHOLE | change)


@pytest.mark.parametrize("value", [None, [], 1, "x"])
def test_what_is_no_object_is_no_record(value: object) -> None:
    with pytest.raises(ValueError, match="expected an object"):
        record(Whole, value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("[" * 101 + "]" * 101, "nested too deeply"),  # Python 3.12 and later read thousands of levels
        ('{"a":[' * 51 + "1" + "]}" * 51, "nested too deeply"),
        ('{"a": NaN}', "NaN is no number in JSON"),
        ("[-Infinity]", "-Infinity is no number in JSON"),
        ("1" * 5000, "4300"),
        (r'"\ud800"', "surrogates not allowed"),
        ("{", "Expecting property name"),
        ("", "Expecting value"),
    ],
)
def test_json_that_python_would_take_or_die_of_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parsed(text)


def test_a_hundred_levels_are_read() -> None:
    assert parsed('{"a":[' * 50 + "1" + "]}" * 50)


def test_escapes_of_whole_characters_are_read() -> None:
    assert parsed(json.dumps({"a": "\U0001f600"})) == {"a": "\U0001f600"}


def test_no_more_of_a_file_is_read_than_it_may_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    file = tmp_path / "file.json"
    file.write_text('"12345678"')
    assert read_json(file) == "12345678"
    file.write_text('"123456789"')
    with pytest.raises(ValueError, match="more than 10 bytes"):
        read_json(file)
    with pytest.raises(ValueError, match="more than 10 bytes"):
        read_json(Path("/dev/zero"))
    file.write_text('"ééééé"', encoding="utf-8")  # seven characters in twelve bytes
    with pytest.raises(ValueError, match="more than 10 bytes"):
        read_json(file)
