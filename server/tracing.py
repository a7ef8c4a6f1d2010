"""Traces. The header `traceparent` of W3C Trace Context is continued, and spans are sent to an OTLP endpoint if there is one."""

import re
from time import perf_counter, time_ns
from typing import Any, Protocol

from ..engine.errors import BackendError
from .models.job_scorer import JobRun

TRACEPARENT = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")


def trace_id(traceparent: bytes | None) -> str | None:
    """Return the id of the trace that a request belongs to, or None if the header is missing or malformed."""
    match = TRACEPARENT.fullmatch(traceparent or b"")
    return None if match is None or not match[1].strip(b"0") else match[1].decode()


class Tracer(Protocol):
    """Records finished requests."""

    def record(self, path: str, started: float, status: int, headers: dict[bytes, bytes], run: JobRun | None) -> None:
        """Record a request that began at the `perf_counter` time `started`, with the parts of its job."""

    def close(self) -> None:
        """Send the remaining spans."""


class NoTracer:
    """Records nothing."""

    def record(self, path: str, started: float, status: int, headers: dict[bytes, bytes], run: JobRun | None) -> None:
        """See `Tracer.record`."""

    def close(self) -> None:
        """See `Tracer.close`."""


class OtlpTracer:
    """Sends a span for each request, with child spans for queue, tokenization and scoring, by OTLP over HTTP.

    Spans are made when a request is done, from its noted times, so that tracing costs nothing while the request is processed.
    """

    def __init__(self, endpoint: str) -> None:
        """Raises BackendError if OpenTelemetry is not installed."""
        try:
            from opentelemetry import trace
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            raise BackendError('--otlp-endpoint needs OpenTelemetry: pip install "crossrt[serve,otlp]"') from error
        self._provider = TracerProvider(resource=Resource.create({"service.name": "crossrt"}))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
        self._tracer = self._provider.get_tracer("crossrt.server")
        self._propagator = TraceContextTextMapPropagator()
        self._trace: Any = trace

    def record(self, path: str, started: float, status: int, headers: dict[bytes, bytes], run: JobRun | None) -> None:
        """See `Tracer.record`."""
        shift = time_ns() - int(perf_counter() * 1e9)
        names = ("traceparent", "tracestate")
        carrier = {name: headers[name.encode()].decode("latin-1") for name in names if name.encode() in headers}
        span = self._tracer.start_span(
            f"POST {path}",
            self._propagator.extract(carrier),
            kind=self._trace.SpanKind.SERVER,
            attributes={"http.route": path, "http.response.status_code": status},
            start_time=shift + int(started * 1e9),
        )
        if run is not None and run.done:
            below = self._trace.set_span_in_context(span)
            times = (run.accepted, run.began, run.tokenized, run.done)
            for name, begin, end in zip(("queue", "tokenization", "scoring"), times, times[1:], strict=False):
                part = self._tracer.start_span(name, below, start_time=shift + int(begin * 1e9))
                part.end(shift + int(end * 1e9))
        span.end()

    def close(self) -> None:
        """See `Tracer.close`."""
        self._provider.shutdown()


def open_tracer(endpoint: str | None) -> Tracer:
    """Return a tracer for the endpoint, or one that records nothing. Raises BackendError as `OtlpTracer`."""
    return NoTracer() if endpoint is None else OtlpTracer(endpoint)
