"""Spans of a request reach an OTLP endpoint, below the trace that the client has begun."""

import json
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from crossrt.engine.errors import BackendError
from crossrt.server.tracing import open_tracer

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


def test_an_endpoint_that_is_away_costs_no_request_and_no_long_end(start: Start) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = start("--log-format", "json", "--otlp-endpoint", f"http://127.0.0.1:{port}/v1/traces")
    for _ in range(5):
        assert server.post("/rerank", {"query": "a", "texts": ["b"]}).status == 200
    began = time.monotonic()
    assert server.end() == 0
    assert time.monotonic() - began < 10
    assert all(json.loads(line) for line in server.lines), "what the exporter says is in the server's format"


def test_without_an_endpoint_nothing_of_opentelemetry_is_loaded() -> None:
    code = (
        "import sys, crossrt.commands.serve, crossrt.server.serving; from crossrt.server.tracing import open_tracer;"
        "open_tracer(None); print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_endpoint_without_opentelemetry_is_an_error_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in sys.modules if name.startswith("opentelemetry.sdk")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk", None)
    with pytest.raises(BackendError, match=r'pip install "crossrt\[serve,otlp\]"'):
        open_tracer("http://127.0.0.1:1/v1/traces")
