"""A body is read within its limit, which is a number of bytes that is still allowed."""

import asyncio
from typing import Any

import pytest

for package in ("uvicorn", "httptools"):
    pytest.importorskip(package, reason="crossrt[serve] is not installed")

from crossrt.server.dialects.request_error import RequestError
from crossrt.server.http import request_body
from crossrt.server.http.request_body import ClientGoneError, read_body


class Client:
    """Sends a body in parts, and counts those that are read. With `gone` it leaves instead of sending the last one."""

    def __init__(self, *parts: bytes, gone: bool = False, stops: bool = False) -> None:
        self._parts, self._gone, self._stops = list(parts), gone, stops
        self.read = 0

    async def receive(self) -> Any:
        if not self._parts:
            if self._gone:
                return {"type": "http.disconnect"}
            assert self._stops, "the whole body is read, and nothing else would come"
            await asyncio.Event().wait()
        self.read += 1
        part = self._parts.pop(0)
        more = bool(self._parts) or self._gone or self._stops
        return {"type": "http.request", "body": part, "more_body": more}


def body(client: Client, headers: dict[bytes, bytes] | None = None, most: int = 10) -> bytes:
    return asyncio.run(read_body(client.receive, headers or {}, max_bytes=most))


def refused(client: Client, headers: dict[bytes, bytes] | None = None) -> str:
    with pytest.raises(RequestError) as error:
        body(client, headers)
    return error.value.kind


def test_a_body_of_as_many_bytes_as_are_allowed_is_read() -> None:
    assert body(Client(b"0123456789"), {b"content-length": b"10"}) == b"0123456789"
    assert body(Client(b"01234", b"", b"56789")) == b"0123456789"
    assert body(Client(b"")) == b""


def test_a_byte_more_is_refused_once_the_client_has_sent_all() -> None:
    for client in (Client(b"01234", b"567890"), Client(b"01234567890", b"1", b"2")):
        assert refused(client) == "too_large"
        assert client._parts == []
    client = Client(b"012345", b"67890")
    assert refused(client, {b"content-length": b"11"}) == "too_large"
    assert client._parts == []
    assert refused(Client(b"01234567890", gone=True)) == "too_large"


def test_a_client_that_asks_before_it_sends_a_body_that_is_too_large_is_not_told_to_send_it() -> None:
    client = Client(b"012345", b"67890")
    assert refused(client, {b"content-length": b"11", b"expect": b"100-Continue"}) == "too_large"
    assert client.read == 0


def test_the_rest_of_a_body_that_is_too_large_is_waited_for_only_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_body, "DISCARD_SECONDS", 0.01)
    assert refused(Client(b"01234567890", stops=True)) == "too_large"


def test_a_client_that_leaves_before_its_body_is_whole_is_gone() -> None:
    with pytest.raises(ClientGoneError):
        body(Client(b"0", gone=True))


@pytest.mark.parametrize(("value", "is_read"), [(b"identity", True), (b"", True), (b"gzip", False), (b"GZIP", False)])
def test_a_compressed_body_is_refused_before_it_is_read(value: bytes, is_read: bool) -> None:
    client = Client(b"{}")
    if is_read:
        assert body(client, {b"content-encoding": value}) == b"{}"
    else:
        assert refused(client, {b"content-encoding": value}) == "encoding"
        assert client.read == 0
