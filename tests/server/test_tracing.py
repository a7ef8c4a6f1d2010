"""Spans of a request reach an OTLP endpoint, below the trace that the client has begun."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from .conftest import Start

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="OpenTelemetry is not installed")
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def test_spans_for_queue_tokenization_and_scoring_are_sent(start: Start) -> None:
    received: list[Any] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                import gzip

                body = gzip.decompress(body)
            request = ExportTraceServiceRequest.FromString(body)
            received.extend(s for r in request.resource_spans for scope in r.scope_spans for s in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *words: Any) -> None:
            pass

    collector = HTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    server = start("--milliseconds", "5", "--otlp-endpoint", f"http://127.0.0.1:{collector.server_port}/v1/traces")
    parent = "00f067aa0ba902b7"
    server.post("/v1/rerank", {"query": "a", "documents": ["b"] * 4}, {"traceparent": f"00-{TRACE}-{parent}-01"})
    assert server.end() == 0  # sends what is left
    collector.shutdown()
    collector.server_close()
    spans = {span.name: span for span in received}
    assert set(spans) == {"POST /v1/rerank", "queue", "tokenization", "scoring"}
    root = spans["POST /v1/rerank"]
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    assert root.parent_span_id.hex() == parent
    assert {spans[name].parent_span_id for name in ("queue", "tokenization", "scoring")} == {root.span_id}
    scoring = spans["scoring"]
    assert 15e6 < scoring.end_time_unix_nano - scoring.start_time_unix_nano < 5e9
    assert root.start_time_unix_nano <= spans["queue"].start_time_unix_nano <= scoring.end_time_unix_nano
