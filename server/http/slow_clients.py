"""`Connection`: uvicorn's connection, which knows since when it waits for its client; `close_slow` ends those that wait long.

uvicorn bounds only the time between two requests (`timeout_keep_alive`). A client that connects and sends nothing, or half of its
headers or body, or does not read its answer, would keep its connection for ever. Looking at all connections once a second costs
less than a timer for each request.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from ..dialects.request_error import RequestError, object_error


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How many seconds a client may take to send its headers, to send its body, and to read its answer."""

    headers: float
    body: float
    answer: float


class Connection(HttpToolsProtocol):
    """Remembers since when its client sends headers, sends a body, and leaves its answer unread; None where it does not."""

    headers_since: float | None = None
    body_since: float | None = None
    unread_since: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self.headers_since = self.loop.time()

    def on_message_begin(self) -> None:
        """See httptools."""
        super().on_message_begin()
        self.headers_since = self.loop.time()

    def on_headers_complete(self) -> None:
        """See httptools."""
        self.body_since, self.headers_since = self.headers_since, None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """See httptools."""
        self.body_since = None
        super().on_message_complete()

    def refuse(self, refusal: RequestError) -> None:
        """Answer a request whose body is not there yet, and close the connection."""
        body = object_error(refusal)
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[refusal.status] + head + body)
        self.transport.close()


def close_slow(connections: Iterable[Any], patience: Patience, now: float) -> None:
    """Close the connections whose clients take too long."""
    for connection in connections:
        if not connection.transport.get_write_buffer_size():
            connection.unread_since = None
        elif connection.unread_since is None:
            connection.unread_since = now
        if _late(connection.headers_since, patience.headers, now) or _late(
            connection.unread_since, patience.answer, now
        ):
            connection.transport.abort()
        elif _late(connection.body_since, patience.body, now) and not connection.cycle.response_started:
            connection.refuse(
                RequestError(
                    "slow_body", f"the body did not arrive within {patience.body:g} s (--body-timeout); send it faster"
                )
            )


def _late(since: float | None, patience: float, now: float) -> bool:
    return since is not None and now - since > patience
