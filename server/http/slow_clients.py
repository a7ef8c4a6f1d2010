"""`Connection`: uvicorn's connection, which remembers since when it waits for its client; `close_slow` ends those that wait long.

uvicorn bounds only the time between two requests (`timeout_keep_alive`). A client that connects and sends nothing, or half of its
headers, or does not read its answer, would keep its connection for ever.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class Connection(HttpToolsProtocol):
    """Remembers since when its client sends headers (`headers_since`) and its answer lies unread (`unread_since`)."""

    headers_since: float | None = None
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
        self.headers_since = None
        super().on_headers_complete()


def close_slow(connections: Iterable[Any], now: float, *, header_timeout: float, write_timeout: float) -> None:
    """Abort the connections whose headers, or whose clients' reading, take more seconds than these."""
    for connection in connections:
        transport = connection.transport
        if not transport.get_write_buffer_size():
            connection.unread_since = None
        elif connection.unread_since is None:
            connection.unread_since = now
        late = (connection.headers_since is not None and now - connection.headers_since > header_timeout) or (
            connection.unread_since is not None and now - connection.unread_since > write_timeout
        )
        if late:
            transport.abort()
