"""`UpgradeIgnoring`: uvicorn's connection, which ignores the header Upgrade of a request.

Java's HttpClient asks for HTTP/2 (`Upgrade: h2c`) with the first request of a connection, even if that has a body. A server may
ignore this (RFC 9110, section 7.8). httptools considers such a request finished after its headers. uvicorn would therefore answer
it as a request without a body, and read the body as another request.
"""

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class UpgradeIgnoring(HttpToolsProtocol):
    """Parses a request with the header Upgrade again without this header. A CONNECT request is not changed."""

    _ignoring = False
    """Whether the current request must be parsed again."""

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._unset_keepalive_if_required()
        try:
            while data:
                data = self._parsed(data)
        except httptools.HttpParserError:
            words = "Invalid HTTP request received."
            self.logger.warning(words)
            self.send_400_response(words)

    def on_message_begin(self) -> None:
        """See httptools."""
        self._ignoring = False
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """See httptools."""
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            self._ignoring = True
        else:
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """See httptools."""
        if not self._ignoring:
            super().on_message_complete()

    def _parsed(self, data: bytes) -> bytes:
        """Parse data. Return what to parse next: nothing, or the same request without the header Upgrade."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if not self._ignoring:
                return b""
            method, version = self.parser.get_method(), self.parser.get_http_version().encode()
            lines = [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
            head = b"".join((b"%b %b HTTP/%b\r\n" % (method, self.url, version), *lines, b"\r\n"))
            return head + data[upgrade.args[0] :]
        return b""
