"""`Answer`: what is sent to a client."""

from dataclasses import dataclass, field

from .request_body import Send

JSON = b"application/json"
Headers = list[tuple[bytes, bytes]]


@dataclass(slots=True)
class Answer:
    """A status, a body and its type, and further headers."""

    status: int = 200
    body: bytes = b""
    content_type: bytes = JSON
    headers: Headers = field(default_factory=list)

    async def send(self, send: Send, *, close: bool = False, without_body: bool = False) -> None:
        """Send it. `close` asks the client to use another connection for its next request; HEAD wants no body."""
        headers = [(b"content-type", self.content_type), (b"content-length", b"%d" % len(self.body)), *self.headers]
        if close:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if without_body else self.body})
