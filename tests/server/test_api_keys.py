"""Keys are read from a file and looked for in both headers."""

from pathlib import Path

import pytest

pytest.importorskip("msgspec", reason="crossrt[serve] is not installed")

from crossrt.engine.errors import OptionError
from crossrt.server.dialects.request_error import RequestError
from crossrt.server.http.api_keys import ApiKeys


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text("first\nsecond\n")
    return path


def refusal(keys: ApiKeys, **headers: bytes) -> str | None:
    """The kind of the error and its words, or None for headers with a key. An underscore in a name stands for a hyphen."""
    try:
        keys.check({name.replace("_", "-").encode(): value for name, value in headers.items()})
    except RequestError as error:
        return f"{error.kind}: {error.message}"
    return None


@pytest.mark.parametrize(
    "headers",
    [
        {"x_api_key": b"first"},
        {"authorization": b"Bearer second"},
        {"authorization": b"bearer  first"},
        {"authorization": b"Bearer first", "x_api_key": b"of a gateway"},
        {"authorization": b"Bearer of-a-gateway", "x_api_key": b"second"},
        {"authorization": b"Basic Zmlyc3Q=", "x_api_key": b"first"},
        {"authorization": b"Bearer first", "x_api_key": b""},
    ],
)
def test_one_of_the_keys_in_either_header_is_enough(file: Path, headers: dict[str, bytes]) -> None:
    assert refusal(ApiKeys(file), **headers) is None


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({}, "needs a key"),
        ({"x_api_key": b""}, "needs a key"),
        ({"authorization": b"Bearer"}, "needs a key"),
        ({"authorization": b"first"}, "needs a key"),
        ({"authorization": b"Basic first"}, "needs a key"),
        ({"authorization": b"Bearer third"}, "is not one of the server's"),
        ({"x_api_key": b"third"}, "is not one of the server's"),
        ({"x_api_key": b"third", "authorization": b"Bearer fourth"}, "is not one of the server's"),
        ({"x_api_key": b"first second"}, "is not one of the server's"),
        ({"authorization": b"Basic first", "x_api_key": b"third"}, "is not one of the server's"),
    ],
)
def test_a_missing_key_and_a_wrong_one_are_told_apart(file: Path, headers: dict[str, bytes], says: str) -> None:
    said = refusal(ApiKeys(file), **headers) or ""
    assert said.startswith("unauthorized: ")
    assert says in said


def test_a_file_without_a_key_is_an_error_and_changes_nothing_when_it_is_read_again(file: Path) -> None:
    keys = ApiKeys(file)
    for text in ("", "\n \n", "# a comment\n"):
        file.write_text(text)
        with pytest.raises(OptionError, match="holds no key; write one a line"):
            ApiKeys(file)
        with pytest.raises(OptionError):
            keys.reload()
    file.write_bytes(b"\xff")
    with pytest.raises(OptionError, match="cannot be read"):
        keys.reload()
    assert refusal(keys, x_api_key=b"first") is None
    file.write_text("third\n")
    keys.reload()
    assert refusal(keys, x_api_key=b"first") is not None
    assert refusal(keys, x_api_key=b"third") is None


def test_without_a_file_every_client_may_call() -> None:
    keys = ApiKeys(None)
    keys.reload()
    assert not keys.required
    assert refusal(keys) is None
