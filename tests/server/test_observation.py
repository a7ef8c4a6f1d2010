"""Metrics and logs say what clients saw: every answer has an id, a line and a status that was registered at the start."""

import json
import os
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY, Histogram

from crossrt.server.buffered_histogram import BufferedHistogram
from crossrt.server.metrics import PathMetrics

from .conftest import Served, Start, eventually

DOCUMENTS = {"query": "a", "documents": ["b", "cc"]}
TEXTS = {"query": "a", "texts": ["b", "cc"]}


def line_of(server: Served, name: str) -> dict[str, Any]:
    """The log's line of the request with this id, from a server with --log-format json."""
    found = eventually(lambda: next((line for line in server.lines if f'"id":"{name}"' in line), None))
    return dict(json.loads(found))


def half_a_body(server: Served, path: str = "/rerank", name: str = "slow") -> bytes:
    """Send half of a body, and return the answer up to the end of the connection."""
    with server.connect() as client:
        client.sendall(
            f'POST {path} HTTP/1.1\r\nhost: a\r\nx-request-id: {name}\r\ncontent-length: 100\r\n\r\n{{"query"'.encode()
        )
        parts = []
        while part := client.recv(65536):
            parts.append(part)
    return b"".join(parts)


# -- metrics


def series(server: Served) -> dict[str, float]:
    lines = server.get("/metrics").body.decode().splitlines()
    found = (line.rsplit(" ", 1) for line in lines if line.startswith("crossrt_requests_total{"))
    return {name: float(value) for name, value in found}


def test_a_status_that_was_not_expected_is_counted_too() -> None:
    metrics = PathMetrics("/of-a-test", {200})
    metrics.count(499, 0.1)
    metrics.flush()
    labels = {"path": "/of-a-test", "status": "499"}
    assert REGISTRY.get_sample_value("crossrt_requests_total", labels) == 1


def test_values_that_are_added_in_bulk_are_counted_as_one_by_one() -> None:
    bounds, values = (1, 2.5, 10), [0.5, 1, 1.0001, 2.5, 3, 10, 11, 1e9]
    names = [f"crossrt_of_a_test_{kind}" for kind in ("bulk", "single")]
    bulk, single = (Histogram(name, "Of a test", ["path"], buckets=bounds).labels("/") for name in names)
    buffered = BufferedHistogram(bulk, bounds)
    buffered.flush()
    for value in values:
        buffered.add(value)
        single.observe(value)
    buffered.flush()
    buffered.flush()
    for sample, labels in [
        ("sum", {}),
        ("count", {}),
        *(("bucket", {"le": le}) for le in ("1.0", "2.5", "10.0", "+Inf")),
    ]:
        found, expected = (REGISTRY.get_sample_value(f"{name}_{sample}", {"path": "/", **labels}) for name in names)
        assert found == expected is not None


def test_every_status_of_every_path_is_registered_at_the_start(start: Start, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("key\n")
    words = ("--milliseconds", "1", "--max-queue-tokens", "2000", "--max-payload", "100000", "--body-timeout", "0.5")
    server = start(*words, "--api-keys", str(keys), "--tei-validation-status", "413")
    key = {"x-api-key": "key"}
    before = series(server)
    seen = {
        server.post("/rerank", TEXTS).status,
        *(server.post(path, b"{", key).status for path in ("/rerank", "/v1/rerank", "/predict", "/")),
        server.post("/predict", {"inputs": 1}, key).status,
        server.post("/predict", b" " * 200_000, key).status,
        server.post("/rerank", TEXTS, {**key, "content-encoding": "gzip"}).status,
        server.post("/score", {"text_1": "a", "text_2": "FAIL"}, key).status,
        server.get("/readyz").status,
        server.post("/score", {"text_1": "a", "text_2": "REPAIR"}, key).status,
        server.post("/rerank", TEXTS, {**key, "x-request-timeout": "1e-9"}).status,
        server.post("/nowhere", TEXTS, key).status,
        server.post("/nowhere", TEXTS).status,
        server.post("/admin/reload", None).status,
        server.get("/admin/reload", key).status,
        server.get("/v1/ranking", key).status,
        server.post("/metrics", None, key).status,
        server.get("/info").status,
    }
    with ThreadPoolExecutor(8) as clients:
        body = {"query": "a", "documents": ["b" * 499] * 3}
        seen.update(clients.map(lambda _: server.post("/v1/rerank", body, key).status, range(8)))
    assert seen == {200, 400, 401, 404, 405, 413, 415, 429, 503, 504}
    after = series(server)
    assert set(after) == set(before)
    assert sum(value for name, value in before.items()) <= 2, "all begin at 0, but for those that asked"
    counted = {int(re.search(r'status="(\d+)"', name)[1]) for name, value in after.items() if value}  # type: ignore[index]
    assert counted == seen


def test_a_slow_body_is_counted_and_logged_as_the_client_sees_it(start: Start) -> None:
    server = start("--body-timeout", "0.3", "--log-format", "json")
    answer = half_a_body(server)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"\r\nconnection: close\r\n" in answer
    assert b"\r\nx-request-id: slow\r\n" in answer
    assert server.metric('crossrt_requests_total{path="/rerank",status="408"}') == 1
    assert server.metric('crossrt_requests_total{path="/rerank",status="499"}') == 0
    line = line_of(server, "slow")
    assert (line["status"], line["level"]) == (408, "info")
    assert "--body-timeout" in line["reason"]


def test_a_body_that_waits_behind_another_request_is_not_called_slow(start: Start) -> None:
    server = start("--milliseconds", "100", "--body-timeout", "0.5")
    body = b'{"query": "a", "texts": ["' + b"b" * 4_000_000 + b'"]}'
    slow = json.dumps({"query": "a", "texts": ["b"] * 25}).encode()
    head = b"POST /rerank HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n"
    with server.connect() as client:
        sender = threading.Thread(target=client.sendall, args=(head % len(slow) + slow + head % len(body) + body,))
        sender.start()
        answers = b""
        while answers.count(b"HTTP/1.1 ") < 2:
            answers += client.recv(65536)
        sender.join()
    assert answers.count(b"HTTP/1.1 200 OK") == 2


def test_a_request_that_the_shutdown_cuts_off_is_told_so_and_counted(start: Start) -> None:
    server = start("--milliseconds", "100", "--shutdown-timeout", "0.3", "--log-format", "json")
    with ThreadPoolExecutor(1) as client:
        body = {"query": "a", "documents": ["b"] * 1000}
        cut = client.submit(server.post, "/v1/rerank", body, {"x-request-id": "cut"})
        eventually(lambda: server.metric("crossrt_queue_requests{") == 1)
        assert server.end() == 0
        assert cut.result().status == 503
        assert "--shutdown-timeout" in cut.result().json["message"]
    line = line_of(server, "cut")
    assert (line["status"], line["level"]) == (503, "warning")


# -- gauges of other servers


def borrowed(server: Served) -> dict[str, tuple[str, float]]:
    """The kind and the value of every metric with a name of TEI or vLLM."""
    text = server.get("/metrics").body.decode()
    kinds = dict(re.findall(r"^# TYPE ((?:te_|vllm:)\S+) (\w+)$", text, re.MULTILINE))
    values = re.findall(r"^((?:te_|vllm:)\w+)(\{.*\})? (\S+)$", text, re.MULTILINE)
    assert {name for name, _, _ in values} == set(kinds)
    assert {labels for name, labels, _ in values if name.startswith("vllm")} <= {'{engine="0",model_name="stub"}'}
    return {name: (kinds[name], float(value)) for name, _, value in values}


def test_gauges_of_tei_and_vllm_count_what_waits_and_what_runs(start: Start) -> None:
    server = start("--milliseconds", "20", "--gauges", "tei", "--gauges", "vllm")
    names = ("te_queue_size", "vllm:num_requests_running", "vllm:num_requests_waiting")
    assert borrowed(server) == dict.fromkeys(names, ("gauge", 0))
    with ThreadPoolExecutor(4) as clients:
        clients.submit(server.post, "/rerank", {"query": "a", "texts": ["b"] * 100})
        begun = eventually(lambda: (found := borrowed(server))["vllm:num_requests_running"][1] == 1 and found)
        assert begun["te_queue_size"][1] > 0, "it has begun, and its other texts wait"
        for _ in range(3):
            clients.submit(server.post, "/rerank", {"query": "a", "texts": ["b"] * 10})
        waiting = eventually(lambda: (found := borrowed(server))["vllm:num_requests_waiting"][1] == 3 and found)
        assert waiting["vllm:num_requests_running"][1] == 1
        assert 30 < waiting["te_queue_size"][1] < 130
    assert borrowed(server) == dict.fromkeys(names, ("gauge", 0))


def test_gauges_of_other_servers_are_exported_only_where_they_are_asked_for(start: Start, stub: Served) -> None:
    assert borrowed(stub) == {}
    assert set(borrowed(start("--gauges", "tei"))) == {"te_queue_size"}


def test_gauges_count_several_running_requests_of_a_real_model(start: Start, bundle: Path) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one processor computes one request at a time")
    server = start("--device", "cpu", "--gauges", "vllm", bundle=bundle)
    stop = threading.Event()
    most = 0.0

    def load() -> None:
        while not stop.is_set():
            server.post("/rerank", {"query": "where is the river", "texts": ["the river is long and green " * 8] * 200})

    threads = [threading.Thread(target=load) for _ in range(6)]
    for thread in threads:
        thread.start()
    try:

        def several() -> bool:
            nonlocal most
            most = max(most, server.metric("vllm:num_requests_running"))
            return most > 1

        eventually(several)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


# -- logs


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/info", 200),
        ("GET", "/v1/models", 200),
        ("GET", "/docs", 200),
        ("GET", "/nowhere", 404),
        ("DELETE", "/metrics", 405),
        ("GET", "/v1/rerank", 405),
        ("HEAD", "/info", 200),
    ],
)
def test_every_answer_has_an_id_and_a_line(json_log: Served, method: str, path: str, status: int) -> None:
    answer = json_log.ask(method, path)
    assert answer.status == status
    line = line_of(json_log, answer.headers["x-request-id"])
    assert (line["path"], line["status"], line["level"]) == (path, status, "info")
    assert ("reason" in line) == (status >= 400)


@pytest.fixture(scope="module")
def json_log(start_for_all: Start) -> Served:
    return start_for_all("--log-format", "json", "--body-timeout", "0.3", "--milliseconds", "1")


def test_probes_and_metrics_get_a_line_where_they_fail_or_are_asked_for(start: Start) -> None:
    usual, all_of_them = (
        start("--log-format", "json", "--milliseconds", "1", *w) for w in ((), ("--log-requests", "all"))
    )
    for path in ("/readyz", "/livez", "/health", "/metrics"):
        assert usual.get(path, {"x-request-id": "seen" + path}).headers["x-request-id"] == "seen" + path
        all_of_them.get(path, {"x-request-id": "seen" + path})
        line_of(all_of_them, "seen" + path)
    usual.post("/rerank", {"query": "a", "texts": ["FAIL"]})
    usual.get("/readyz", {"x-request-id": "failing"})
    line = line_of(usual, "failing")
    assert (line["status"], line["level"]) == (503, "warning")
    assert "the stub is broken" in line["reason"]
    assert "seen" not in usual.log


def test_failed_leaves_out_what_succeeded(start: Start) -> None:
    server = start("--log-format", "json", "--log-requests", "failed")
    server.post("/rerank", TEXTS, {"x-request-id": "good"})
    server.get("/info", {"x-request-id": "good"})
    server.post("/rerank", {}, {"x-request-id": "bad"})
    line_of(server, "bad")
    assert "good" not in server.log


def test_reasons_are_short_and_hold_nothing_that_the_client_sent(json_log: Served) -> None:
    wrong: list[tuple[str, Any]] = [
        ("/rerank", {**TEXTS, "truncation_direction": "SECRET"}),
        ("/rerank", {**TEXTS, "window": 5, "aggregate": "SECRET"}),
        ("/rerank", {"query": ["SECRET"], "texts": ["SECRET"]}),
        ("/v1/rerank", {**DOCUMENTS, "truncation_side": "SECRET - at `$.x"}),
        ("/v1/rerank", {"query": "SECRET", "documents": [{"SECRET": 1}]}),
        ("/v1/rerank", {"query": "SECRET", "documents": [{"text": 1}], "rank_fields": ["SECRET"]}),
        ("/v1/rerank", b'{"query": "SECRET'),
        ("/v1/ranking", {"query": {"text": "SECRET"}, "passages": [], "truncate": "SECRET"}),
        ("/score", {"text_1": ["SECRET"] * 2, "text_2": ["SECRET"] * 3}),
        ("/predict", {"inputs": [["SECRET"]]}),
        ("/nowhere?q=SECRET", TEXTS),
    ]
    for number, (path, body) in enumerate(wrong):
        answer = json_log.post(path, body, {"x-request-id": f"wrong-{number}"})
        assert 400 <= answer.status < 500
        line = line_of(json_log, f"wrong-{number}")
        assert 10 < len(line["reason"]) <= 300
        assert "SECRET" not in json.dumps(line)


def test_an_unknown_model_is_not_quoted_in_the_log(start: Start, bundle: Path, two_label_bundle: Path) -> None:
    server = start("--device", "cpu", f"two={two_label_bundle}", "--log-format", "json", bundle=bundle)
    answer = server.post("/v1/rerank", {**DOCUMENTS, "model": "SECRET"}, {"x-request-id": "unknown"})
    assert "SECRET" in answer.json["message"]
    assert line_of(server, "unknown")["reason"] == "there is no model of this name"


def test_a_client_that_left_and_a_failed_model_have_reasons(json_log: Served) -> None:
    body = json.dumps({"query": "a", "texts": ["b"] * 1000}).encode()
    with json_log.connect() as client:
        client.sendall(
            b"POST /rerank HTTP/1.1\r\nhost: a\r\nx-request-id: gone\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )
        time.sleep(0.2)
    line = line_of(json_log, "gone")
    assert (line["status"], line["reason"]) == (499, "the client closed the connection")
    json_log.post("/rerank", {"query": "a", "texts": ["FAIL"]}, {"x-request-id": "failed"})
    line = line_of(json_log, "failed")
    assert (line["status"], line["level"]) == (503, "warning")
    json_log.post("/rerank", {"query": "a", "texts": ["REPAIR"]})


def test_a_path_cannot_forge_a_line_of_the_log(start: Start) -> None:
    server = start()
    with server.connect() as client:
        client.sendall(
            b"GET /a%0A2026-01-01T00:00:00.000Z%20INFO%20id=forged HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
        )
        client.recv(65536)
    line = eventually(lambda: next((line for line in server.lines if "forged" in line), None))
    assert 'path="/a\\n2026' in line
    assert re.search(r'status=404 ms=\S+ reason="there is no such path"\n', line)
    assert re.fullmatch(r"\S+ INFO id=\S+ .*\n", line)


# -- errors before the dialect is known


@pytest.fixture(scope="module")
def guarded(start_for_all: Start, tmp_path_factory: pytest.TempPathFactory) -> Served:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text("key\n")
    return start_for_all("--api-keys", str(keys), "--max-payload", "1000", "--body-timeout", "0.3")


FORMS = {
    "tei": {"error", "error_type"},
    "documents": {"error", "message", "detail"},
    "either": {"error", "error_type", "message", "detail"},
}


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/rerank", "either"),
        ("/predict", "tei"),
        ("/", "tei"),
        ("/invocations", "tei"),
        ("/v1/rerank", "documents"),
        ("/score", "documents"),
    ],
)
def test_errors_before_the_body_is_read_have_the_form_of_the_path(guarded: Served, path: str, form: str) -> None:
    key = {"x-api-key": "key"}
    large = json.dumps({"query": "a", "texts": ["b" * 2000]}).encode()
    answers = [
        (guarded.post(path, TEXTS), 401),
        (guarded.post(path, large, key), 413),
        (guarded.post(path, b'{"query": "a", "texts": [', key), 400),
        (guarded.post(path, TEXTS, {**key, "content-encoding": "gzip"}), 415),
    ]
    for answer, status in answers:
        assert answer.status == status
        assert set(answer.json) == FORMS[form]
        if form == "either":
            assert answer.json["error"] == answer.json["message"] == answer.json["detail"]
    with guarded.connect() as client:
        client.sendall(
            f'POST {path} HTTP/1.1\r\nhost: a\r\nx-api-key: key\r\ncontent-length: 100\r\n\r\n{{"query"'.encode()
        )
        head, _, body = client.recv(65536).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert set(json.loads(body)) == FORMS[form]


@pytest.mark.parametrize("path", ["/rerank", "/", "/invocations"])
def test_errors_in_a_body_have_the_form_of_its_dialect(guarded: Served, path: str) -> None:
    key = {"x-api-key": "key"}
    texts = guarded.post(path, {"query": 1, "texts": ["a"]}, key)
    assert (texts.status, set(texts.json)) == (422, FORMS["tei"])
    documents = guarded.post(path, {"query": 1, "documents": ["a"]}, key)
    assert (documents.status, set(documents.json)) == (400, FORMS["documents"])
    neither = guarded.post(path, {"query": "a"}, key)
    form, status = ("either", 400) if path == "/rerank" else ("tei", 422)
    assert (neither.status, set(neither.json)) == (status, FORMS[form])
    assert "`query` and `texts`, or with `query` and `documents`" in neither.json["error"]
