"""`Connection`: uvicorn's connection, which notes since when it waits for its client. `close_slow` ends those that wait too long.

uvicorn limits only the time between two requests (`timeout_keep_alive`). A client that connects and sends nothing, or only half
of its headers or body, or does not read its answer, would keep its connection forever. So would one that sends the rest of its
body after its answer, or a line break between two requests: uvicorn stops the time at any data, and starts it again only after
an answer. Checking all connections once a second costs less than a timer for each request.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from .upgrades import UpgradeIgnoring

MAX_HEADER_BYTES = 64 << 10
"""About the most bytes of a request's first line and headers, which stay in memory until they are complete.

httptools has no limit. This one is the default of uvicorn's other parser.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTimeouts:
    """The seconds that a client may take to send its headers, to send its body, and to read its answer."""

    headers: float
    body: float
    answer: float


class Connection(UpgradeIgnoring):
    """Notes since when its client sends headers, sends a body, and leaves its answer unread. The times are None otherwise.

    Refuses headers that are too large.
    """

    headers_since: float | None = None
    header_bytes = 0
    """Bytes of unfinished headers, without those of the first part that arrived."""
    body_since: float | None = None
    unread_since: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self.headers_since = self.loop.time()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self.header_bytes = 0 if self.headers_since is None else self.header_bytes + len(data)
        super().data_received(data)
        if self.headers_since is not None and self.header_bytes > MAX_HEADER_BYTES:
            self._refuse_headers()
        if self.timeout_keep_alive_task is None and self._is_idle():
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_message_begin(self) -> None:
        """See httptools."""
        super().on_message_begin()
        self.headers_since = self.loop.time()

    def on_headers_complete(self) -> None:
        """See httptools."""
        super().on_headers_complete()  # raises for a target that is no URL, and then there is no cycle that awaits a body
        self.body_since, self.headers_since = self.headers_since, None

    def on_message_complete(self) -> None:
        """See httptools."""
        self.body_since = None
        super().on_message_complete()

    def give_up_body(self, seconds: float) -> None:
        """Wake the application, which waits for the rest of a body. `too_slow` then tells it that the time is over.

        The application sends the answer, so that its metrics and logs show what the client sees.
        """
        self.body_since = None
        cycle: Any = self.cycle
        cycle.body_timeout = seconds
        cycle.message_event.set()

    def _refuse_headers(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:  # an answer to an earlier request is being sent
            self.transport.abort()
            return
        words = b"the headers are too large: %d bytes are allowed" % MAX_HEADER_BYTES
        fields = b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(
            words
        )
        self.transport.write(STATUS_LINE[431] + fields + words)
        self.transport.close()

    def _is_idle(self) -> bool:
        """Tell whether the last request is answered and read, and no other one has begun."""
        waiting = self.headers_since is not None or self.body_since is not None
        return (
            not waiting and self.cycle is not None and self.cycle.response_complete and not self.transport.is_closing()
        )


def too_slow(receive: Any) -> float | None:
    """Return the seconds that the client had for its body if they have passed, else None."""
    seconds: float | None = getattr(getattr(receive, "__self__", None), "body_timeout", None)
    return seconds


def close_slow(connections: Iterable[Any], timeouts: ClientTimeouts, now: float) -> None:
    """Close connections whose clients take too long to send headers or to read, and refuse bodies that take too long.

    If the request of such a body is already answered, the connection is closed. The time of headers and bodies begins anew while
    the server does not read, because an earlier request of the connection is not answered yet.
    """
    for connection in connections:
        if not connection.transport.get_write_buffer_size():
            connection.unread_since = None
        elif connection.unread_since is None:
            connection.unread_since = now
        if connection.flow.read_paused:
            connection.headers_since = None if connection.headers_since is None else now
            connection.body_since = None if connection.body_since is None else now
        if _late(connection.headers_since, timeouts.headers, now) or _late(
            connection.unread_since, timeouts.answer, now
        ):
            connection.transport.abort()
        elif _late(connection.body_since, timeouts.body, now):
            if connection.cycle.response_complete:
                connection.transport.abort()
            elif not connection.cycle.response_started:
                connection.give_up_body(timeouts.body)


def _late(since: float | None, seconds: float, now: float) -> bool:
    return since is not None and now - since > seconds
