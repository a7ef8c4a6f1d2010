"""`read_body` reads the body of a request within a size limit. `slow_clients` limits its time."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, TypeAlias

from ..dialects.request_error import RequestError
from .slow_clients import too_slow

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

DISCARD_SECONDS = 2.0
"""How long the rest of a body that is too large is read and dropped. A connection that is closed with unread data is reset, and
many clients then never see the answer."""


class ClientGoneError(Exception):
    """The client closed the connection before it had an answer."""


async def read_body(receive: Receive, headers: Mapping[bytes, bytes], *, max_bytes: int) -> bytes:
    """Return the whole body.

    Raises RequestError for a body that is too large, too slow or compressed, and ClientGoneError if the client closes the
    connection.
    """
    if headers.get(b"content-encoding", b"identity").lower() not in (b"identity", b""):
        raise RequestError("encoding", "the body is compressed (content-encoding); send it as it is")
    if int(headers.get(b"content-length", b"0")) > max_bytes:
        if headers.get(b"expect", b"").lower() != b"100-continue":  # such a client sends nothing before it is asked
            await _discard(receive)
        raise _too_large(max_bytes)
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGoneError
        part: bytes = message["body"]
        size += len(part)
        more = message.get("more_body", False)
        if size > max_bytes:
            if more:
                await _discard(receive)
            raise _too_large(max_bytes)
        parts.append(part)
        if more and (seconds := too_slow(receive)) is not None:
            raise RequestError(
                "slow_body", f"the body did not arrive within {seconds:g} s (--body-timeout); send it faster"
            )
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def _discard(receive: Receive) -> None:
    try:
        async with asyncio.timeout(DISCARD_SECONDS):
            while (await receive()).get("more_body"):
                pass
    except TimeoutError:
        pass


def _too_large(max_bytes: int) -> RequestError:
    return RequestError(
        "too_large", f"the body has more than {max_bytes} bytes (--max-payload); send fewer or shorter texts"
    )
