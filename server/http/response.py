"""`Response`: what is sent to a client."""

from dataclasses import dataclass

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from .request_body import Send

JSON = b"application/json"
Headers = list[tuple[bytes, bytes]]
STATE = {
    *("disconnected", "response_started", "waiting_for_100_continue", "default_headers", "keep_alive", "transport"),
    *("response_complete", "message_event", "on_response", "flow"),
}
"""Attributes of uvicorn's cycle that `_write` reads and changes. If one is missing, answers are sent by uvicorn itself."""
_known: dict[type, bool] = {}
"""Whether a class of cycles has all of these attributes."""


@dataclass(slots=True)
class Response:
    """A status, a body and its type, and further headers."""

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: Headers | tuple[()] = ()

    async def send(self, send: Send, *, close: bool = False, without_body: bool = False) -> None:
        """Send it. `close` asks the client to use another connection for its next request. `without_body` is for HEAD."""
        headers = [(b"content-type", self.content_type), (b"content-length", b"%d" % len(self.body)), *self.headers]
        if close:
            headers.append((b"connection", b"close"))
        body = b"" if without_body else self.body
        cycle = getattr(send, "__self__", None)
        if isinstance(cycle, RequestResponseCycle) and _is_known(type(cycle), cycle) and not cycle.flow.write_paused:
            _write(cycle, self.status, headers, body, close=close)
            return
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _is_known(kind: type, cycle: RequestResponseCycle) -> bool:
    """Tell whether this version of uvicorn has the state that `_write` changes."""
    if kind not in _known:
        _known[kind] = vars(cycle).keys() >= STATE
    return _known[kind]


def _write(cycle: RequestResponseCycle, status: int, headers: Headers, body: bytes, *, close: bool) -> None:
    """Do what `RequestResponseCycle.send` does for both messages, but send headers and body together.

    uvicorn sends them separately, in two system calls and two TCP segments, which wakes the client twice. A middleware, such as
    the one for CORS, has its own `send`, and its answers are sent by uvicorn.
    """
    if cycle.disconnected:
        return
    cycle.response_started, cycle.waiting_for_100_continue = True, False
    lines = [b"%b: %b\r\n" % header for header in (*cycle.default_headers, *headers)]
    if close:
        cycle.keep_alive = False
    elif not cycle.keep_alive:
        lines.append(b"connection: close\r\n")
    cycle.transport.write(b"".join((STATUS_LINE[status], *lines, b"\r\n", body)))
    cycle.response_complete = True
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
