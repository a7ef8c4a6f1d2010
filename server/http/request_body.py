"""`read_body`: the body of a request, within limits of size and time."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, TypeAlias

from ..dialects.request_error import RequestError

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

DISCARD_SECONDS = 2.0
"""How long the rest of a body that is too large is read and dropped. A connection that is closed with unread data is reset, and
then many clients never see the answer."""


class ClientGoneError(Exception):
    """The client closed the connection before it had an answer."""


async def read_body(receive: Receive, headers: Mapping[bytes, bytes], *, most: int, seconds: float) -> bytes:
    """Return the whole body.

    Raises RequestError for one that is too large, too slow or compressed, and ClientGoneError where it breaks off.
    """
    if headers.get(b"content-encoding", b"identity") != b"identity":
        raise RequestError("encoding", "the body is compressed (content-encoding); send it as it is")
    if int(headers.get(b"content-length", b"0")) > most:
        await _discard(receive)
        raise _too_large(most)
    try:
        async with asyncio.timeout(seconds):
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body"):
                return _within(message["body"], most)
            return await _rest(receive, message, most)
    except TimeoutError:
        raise RequestError(
            "slow_body", f"the body did not arrive within {seconds:g} seconds (--body-timeout); send it faster"
        ) from None


async def _rest(receive: Receive, message: Message, most: int) -> bytes:
    parts, size = [], 0
    while True:
        if message["type"] != "http.request":
            raise ClientGoneError
        size += len(message["body"])
        if size > most:
            await _discard(receive)
            raise _too_large(most)
        parts.append(message["body"])
        if not message.get("more_body"):
            return b"".join(parts)
        message = await receive()


async def _discard(receive: Receive) -> None:
    try:
        async with asyncio.timeout(DISCARD_SECONDS):
            while (await receive()).get("more_body"):
                pass
    except TimeoutError:
        pass


def _within(body: bytes, most: int) -> bytes:
    if len(body) > most:
        raise _too_large(most)
    return body


def _too_large(most: int) -> RequestError:
    return RequestError(
        "too_large", f"the body has more than {most} bytes (--max-payload); send fewer or shorter texts"
    )
