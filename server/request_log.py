"""Logs on standard error: a line for each request, with its texts only if the settings say so, and the server's own lines."""

import contextlib
import logging
import re
import sys
import time
from datetime import datetime, timezone
from typing import Any

import msgspec

from .routes import PROBES
from .settings import Settings

FREQUENT = frozenset({*PROBES, "/metrics"})
"""Paths that machines request every few seconds."""
PLAIN = re.compile(r"[!#-<>-~]+")
"""Values that need no quotes in a text line."""


class TextLines(logging.Formatter):
    """Formats a record as a line of text, with the same time as the lines of requests."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        """Return the time of a record."""
        return stamp(record.created)


class JsonLines(logging.Formatter):
    """Formats a record as a JSON object in one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields = {
            "time": stamp(record.created),
            "level": record.levelname.lower(),
            "event": "log",
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(fields).decode()


def configure(settings: Settings) -> None:
    """Make crossrt, uvicorn and all other libraries log to standard error in the chosen format."""
    handler = logging.StreamHandler(sys.stderr)
    text = TextLines("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(JsonLines() if settings.log_format == "json" else text)
    for name, level in (("crossrt", logging.INFO), ("uvicorn", logging.WARNING), (None, logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)


class RequestLog:
    """Writes a line for each request that the settings choose.

    It does not use `logging`, since a record there takes 15 microseconds, and a line here takes 4.
    """

    def __init__(self, settings: Settings) -> None:
        self._all = settings.log_requests == "all"
        self._usual = settings.log_requests in ("all", "usual")
        self._failed = settings.log_requests != "none"
        self._json = settings.log_format == "json"
        self.texts = settings.log_texts

    def wants(self, path: str, status: int) -> bool:
        """Tell whether a request to this path that ended with this status gets a line."""
        if status >= 400:
            return self._failed
        return self._all or (self._usual and path not in FREQUENT)

    def write(self, fields: dict[str, Any], status: int) -> None:
        """Write one line. Failures of the server or its model are warnings."""
        now, level = time.time(), "warning" if status >= 500 else "info"
        if self._json:
            line = msgspec.json.encode({"time": stamp(now), "level": level, "event": "request", **fields})
        else:
            shown = " ".join(f"{name}={_shown(value)}" for name, value in fields.items())
            line = f"{stamp(now)} {level.upper()} {shown}".encode()
        # A full disk or a closed standard error must not end the client's connection.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.buffer.write(line + b"\n")
            sys.stderr.buffer.flush()


def _shown(value: object) -> str:
    """Return a value for a text line. It is quoted if it has spaces or line breaks, so that nobody can forge lines."""
    if isinstance(value, (int, float)):
        return repr(value)
    text = str(value)
    return text if PLAIN.fullmatch(text) else msgspec.json.encode(text).decode()


def stamp(seconds: float) -> str:
    """Return a time in seconds since 1970 as RFC 3339, in UTC, with milliseconds."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
