"""`Settings`: how the server runs. They are checked once, when they are created."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..engine.errors import OptionError
from ..engine.options import whole
from .models.model_settings import ModelSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of `crossrt serve`. Times are in seconds.

    Listening: `host` and `port`, or the Unix socket `uds`. Port 0 takes a free port. `workers` processes accept from one socket.

    Access: `api_keys` is a file with one key per line. `cors_origins` are the origins whose pages may send requests.
    `tls_certificate` and `tls_key` are PEM files.

    Time: `request_timeout` is how long a request may take after its headers have arrived. Clients can ask for less with the
    header x-request-timeout. `header_timeout` and `body_timeout` are how long a client may take to send them, `write_timeout` to
    read an answer. `keep_alive` is how long an idle connection stays open. After SIGTERM the server is not ready but keeps
    serving for `shutdown_delay`. Then it finishes accepted requests within `shutdown_timeout`.

    Logs: `log_requests` chooses the requests that get a line; `usual` means all except successful probes and /metrics.
    `log_texts` adds queries and texts. `gauges` names other servers whose gauges are exported too. `otlp_endpoint` receives
    traces.
    """

    models: tuple[ModelSettings, ...]
    host: str = "127.0.0.1"
    port: int = 8080
    uds: Path | None = None
    workers: int = 1
    max_payload: int = 16 << 20
    request_timeout: float = 60.0
    header_timeout: float = 10.0
    body_timeout: float = 30.0
    write_timeout: float = 60.0
    keep_alive: float = 75.0
    shutdown_delay: float = 5.0
    shutdown_timeout: float = 30.0
    api_keys: Path | None = None
    cors_origins: tuple[str, ...] = ()
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tei_validation_status: int = 422
    log_format: Literal["text", "json"] = "text"
    log_requests: Literal["all", "usual", "failed", "none"] = "usual"
    log_texts: bool = False
    gauges: tuple[str, ...] = ()
    otlp_endpoint: str | None = None

    def __post_init__(self) -> None:
        names = [model.name for model in self.models]
        if not names:
            raise OptionError("no model to serve: give a bundle, or [models.NAME] in the configuration file")
        if len(set(names)) < len(names):
            raise OptionError(
                f"two models have one name: {', '.join(sorted(names))}; give each its own, as NAME=BUNDLE"
            )
        if not 0 <= self.port <= 65535:
            raise OptionError(f"--port {self.port}: give 0 to 65535")
        for name in ("workers", "max_payload"):
            whole(name, getattr(self, name), minimum=1)
        for name in ("request_timeout", "header_timeout", "body_timeout", "write_timeout", "keep_alive"):
            if not getattr(self, name) > 0:
                raise OptionError(f"--{name.replace('_', '-')} {getattr(self, name)}: give seconds, more than 0")
        for name in ("shutdown_delay", "shutdown_timeout"):
            if not getattr(self, name) >= 0:
                raise OptionError(f"--{name.replace('_', '-')} {getattr(self, name)}: give seconds, 0 or more")
        _one_of("--tei-validation-status", self.tei_validation_status, (413, 422))
        _one_of("--log-format", self.log_format, ("text", "json"))
        _one_of("--log-requests", self.log_requests, ("all", "usual", "failed", "none"))
        for name in self.gauges:
            _one_of("--gauges", name, ("tei", "vllm"))
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise OptionError("--tls-certificate and --tls-key go together")

    def tls(self) -> ssl.SSLContext | None:
        """Return the TLS context, or None for plain HTTP. Raises OptionError for files that are not a certificate and key."""
        if self.tls_certificate is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(self.tls_certificate, self.tls_key)
        except (OSError, ssl.SSLError) as error:
            raise OptionError(
                f"{self.tls_certificate} and {self.tls_key} are no PEM certificate and key: {error}"
            ) from error
        return context


def _one_of(option: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise OptionError(f"{option} {value}: give {' or '.join(map(str, allowed))}")
