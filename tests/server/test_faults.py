"""What clients and machines do wrong: each is answered in words, or costs nobody else anything."""

import contextlib
import errno
import json
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from crossrt.engine.errors import OptionError
from crossrt.server.http.listening import address, listening_socket

from .conftest import Served, Start, eventually

DOCUMENTS = {"query": "a", "documents": ["b", "cc"]}
TEXTS = {"query": "a", "texts": ["b", "cc"]}
RERANK = ("/rerank", "/v1/rerank", "/v2/rerank", "/v3/rerank")
ALL = {
    **dict.fromkeys(RERANK, DOCUMENTS),
    "/": TEXTS,
    "/invocations": TEXTS,
    "/score": {"text_1": "a", "text_2": ["b"]},
    "/v1/score": {"text_1": "a", "text_2": ["b"]},
    "/predict": {"inputs": [["a", "b"]]},
    "/v1/ranking": {"query": {"text": "a"}, "passages": [{"text": "b"}]},
}


def in_words(answer: Any) -> str:
    """The message of an error, which must be where each client looks for it."""
    body = answer.json
    if isinstance(body["error"], str):
        if set(body) == {"error", "error_type", "message", "detail"}:  # the dialect is not known
            assert body["error"] == body["message"] == body["detail"]
        else:
            assert set(body) == {"error", "error_type"}
        return str(body["error"])
    assert body["error"]["message"] == body["message"] == body["detail"]
    assert body["error"]["code"] == answer.status
    return str(body["message"])


def emptied(body: dict[str, Any]) -> dict[str, Any]:
    return {name: [] if isinstance(value, list) else value for name, value in body.items()}


# -- bodies


@pytest.mark.parametrize("path", ALL)
def test_an_empty_list_is_an_error_in_every_dialect(stub: Served, path: str) -> None:
    answer = stub.post(path, emptied(ALL[path]))
    assert answer.status == 400
    assert "empty" in in_words(answer)


@pytest.mark.parametrize(
    ("documents", "status"),
    [(None, 400), ([None], 400), ([1], 400), ([["a"]], 400), ([{}], 400), ([""], 200), (1, 400)],
)
def test_documents_are_texts_or_objects(stub: Served, documents: Any, status: int) -> None:
    answer = stub.post("/v1/rerank", {"query": "a", "documents": documents})
    assert answer.status == status
    if status != 200:
        assert "documents" in in_words(answer)


@pytest.mark.parametrize("texts", [None, [None], [1], "a", [{"text": "a"}]])
def test_texts_of_other_types_are_teis_validation_errors(stub: Served, texts: Any) -> None:
    answer = stub.post("/rerank", {"query": "a", "texts": texts})
    assert answer.status == 422
    assert answer.json["error_type"] == "Validation"
    assert "texts" in in_words(answer)


def test_teis_validation_errors_may_have_the_status_of_old_versions(start: Start) -> None:
    server = start("--tei-validation-status", "413")
    assert server.post("/predict", {"inputs": 1}).status == 413
    assert server.post("/v1/rerank", {"query": 1}).status == 400


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"query": "\xff", "documents": ["b"]}',
        b'{"query": "\\ud800", "documents": ["b"]}',
        b'{"query": ' + b"[" * 100_000,
        b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b', "query": "a", "documents": ["b"]}',
    ],
    ids=["empty", "half", "latin-1", "surrogate", "deep", "deep and unknown"],
)
@pytest.mark.parametrize("path", ["/rerank", "/predict"])
def test_what_is_no_json_is_refused(stub: Served, body: bytes, path: str) -> None:
    answer = stub.post(path, body)
    assert answer.status in (400, 422)
    assert in_words(answer)


def test_a_body_that_is_too_large_is_refused_before_it_is_read(start: Start) -> None:
    server = start("--max-payload", "1000")
    large = json.dumps({"query": "a", "documents": ["b" * 100_000_000]}).encode()
    answer = server.post("/v1/rerank", large)
    assert answer.status == 413
    assert "1000" in in_words(answer)
    assert "--max-payload" in in_words(answer)
    with server.connect() as client:  # that asks before it sends
        client.sendall(b"POST /rerank HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 100000000\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.1 413"
    with server.connect() as client:  # without a length
        client.sendall(b"POST /rerank HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        client.sendall((b"400\r\n" + b"x" * 1024 + b"\r\n") * 2 + b"0\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.1 413"
    assert server.post("/rerank", TEXTS).status == 200


@pytest.mark.parametrize(
    "field", ["top_n", "top_k", "max_tokens_per_query", "max_tokens_per_doc", "window", "priority"]
)
def test_numbers_that_would_overflow_are_refused(stub: Served, field: str) -> None:
    answer = stub.post("/v1/rerank", {**DOCUMENTS, field: 2**63})
    assert answer.status == 400
    assert field in in_words(answer)
    assert stub.post("/rerank", {**TEXTS, "top_k": -1}).status == 422
    assert stub.post("/rerank", {**TEXTS, "priority": -(2**31)}).status == 422  # that of the probe


def test_a_compressed_body_is_refused(stub: Served) -> None:
    assert stub.post("/rerank", TEXTS, {"content-encoding": "gzip"}).status == 415
    assert stub.post("/rerank", TEXTS, {"content-encoding": "Identity"}).status == 200


@pytest.fixture(scope="module")
def narrow(start_for_all: Start) -> Served:
    return start_for_all("--max-documents", "1")


@pytest.mark.parametrize("path", ALL)
def test_too_many_documents_name_limit_and_option(narrow: Served, path: str) -> None:
    body = {name: value * 2 if isinstance(value, list) else value for name, value in ALL[path].items()}
    answer = narrow.post(path, body)
    assert answer.status == (422 if "error_type" in answer.json else 400)
    assert "--max-documents" in in_words(answer)


def test_an_empty_text_is_scored_also_where_it_is_alone(stub: Served) -> None:
    assert stub.post("/score", {"text_1": "", "text_2": ""}).status == 200
    assert stub.post("/rerank", {"query": "", "documents": ""}).status == 200
    assert stub.post("/predict", {"inputs": ["", ""]}).status == 200


def test_unknown_paths_and_methods_are_named(stub: Served) -> None:
    assert stub.post("/v9/rerank", DOCUMENTS).status == 404
    for method, path, allowed in (
        ("GET", "/v1/rerank", "POST"),
        ("DELETE", "/metrics", "GET, HEAD"),
        ("PUT", "/", "GET, HEAD, POST"),
        ("GET", "/admin/reload", "POST"),
    ):
        answer = stub.ask(method, path)
        assert (answer.status, answer.headers["allow"]) == (405, allowed)
        assert f"takes {allowed}, and not {method}" in in_words(answer)
    assert stub.ask("HEAD", "/readyz").status == 200


def test_an_address_that_ends_in_a_slash_is_the_same(stub: Served) -> None:
    assert stub.post("//v2/rerank", DOCUMENTS).status == 200
    assert stub.get("//readyz").status == 200
    assert stub.post("//v9/rerank", DOCUMENTS).status == 404


# -- slow clients


def test_slow_headers_and_slow_bodies_are_ended(start: Start) -> None:
    server = start("--header-timeout", "0.5", "--body-timeout", "0.5")
    with server.connect() as silent, server.connect() as half_headers, server.connect() as half_body:
        half_headers.sendall(b"POST /rerank HTTP/1.1\r\nhost: ")
        half_body.sendall(b'POST /rerank HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{"query"')
        assert half_body.recv(4096).startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert half_headers.recv(10) == b""
        assert silent.recv(10) == b""
    assert server.post("/rerank", TEXTS).status == 200


def test_half_a_body_and_a_client_that_leaves_cost_nothing(stub: Served) -> None:
    for _ in range(20):
        with stub.connect() as client:
            client.sendall(b'POST /rerank HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{"query"')
    assert stub.post("/rerank", TEXTS).status == 200
    assert eventually(lambda: stub.metric('crossrt_requests_total{path="/rerank",status="499"}') == 20)


def test_a_client_that_does_not_read_its_answer_is_left(start: Start) -> None:
    server = start("--write-timeout", "0.5")
    folder = Path(f"/proc/{server.process.pid}/fd")

    def descriptors() -> int:
        return len(list(folder.iterdir()))

    before = descriptors()
    body = json.dumps({"query": "a", "documents": ["b" * 10_000] * 1000}).encode()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", server.port))
        client.sendall(b"POST /v1/rerank HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        eventually(lambda: server.metric('crossrt_requests_total{path="/v1/rerank",status="200"}') == 1)
        eventually(lambda: descriptors() == before)
    assert server.post("/rerank", TEXTS).status == 200


IDLE = 10_000


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Raise the soft limit of descriptors, here and for the server, which inherits it and raises its own as well."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        yield
        return
    if hard != resource.RLIM_INFINITY and hard < IDLE + 500:
        pytest.skip(f"{IDLE} connections need as many descriptors, and the hard limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, IDLE + 500), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_ten_thousand_idle_connections_leave_room_for_a_request(many_descriptors: None, start: Start) -> None:
    server = start("--header-timeout", "120")
    idle = [server.connect() for _ in range(IDLE)]
    try:
        descriptors = Path(f"/proc/{server.process.pid}/fd")
        eventually(lambda: sum(1 for _ in descriptors.iterdir()) > IDLE)
        began = time.monotonic()
        assert server.post("/rerank", TEXTS).status == 200
        assert time.monotonic() - began < 5
    finally:
        for each in idle:
            each.close()


def test_exhausted_descriptors_are_survived(start: Start) -> None:
    server = start(prefix=("prlimit", "--nofile=80:80"))
    idle = [server.connect() for _ in range(100)]
    time.sleep(0.5)
    for each in idle:
        each.close()

    def answered() -> bool:
        try:
            return server.post("/rerank", TEXTS).status == 200
        except ConnectionError:  # the server has not seen yet that the others are gone
            return False

    assert eventually(answered)
    assert server.process.poll() is None


# -- keys


def test_keys_are_needed_but_for_probes_and_metrics(start: Start, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# of the search team\n  # indented\nfirst\n\n second\n")
    server = start("--api-keys", str(keys))
    for path, body in ALL.items():
        assert server.post(path, body).status == 401
        assert server.post(path, body, {"authorization": "Bearer third"}).status == 401
        assert server.post(path, body, {"authorization": "Basic first"}).status == 401
        assert server.post(path, body, {"x-api-key": "# indented"}).status == 401
        assert server.post(path, body, {"authorization": "bearer second"}).status == 200
        assert server.post(path, body, {"x-api-key": "first"}).status == 200
    answer = server.post("/rerank", TEXTS)
    assert answer.headers["www-authenticate"] == "Bearer"
    for path in (
        "/health",
        "/ping",
        "/livez",
        "/readyz",
        "/v2/health/live",
        "/v2/health/ready",
        "/metrics",
        "/docs",
        "/",
    ):
        assert server.get(path).status == 200
    assert server.get("/info").status == server.post("/admin/reload", None).status == 401
    assert server.post("/admin/reload", None, {"x-api-key": "first"}).json == {"stub": "opened"}
    keys.write_text("third\n", encoding="utf-8-sig")  # as editors on Windows write it
    server.signal(signal.SIGHUP)
    assert eventually(lambda: server.post("/rerank", TEXTS, {"x-api-key": "third"}).status == 200)
    assert server.post("/rerank", TEXTS, {"x-api-key": "first"}).status == 401
    keys.write_text("")
    server.signal(signal.SIGHUP)
    assert eventually(lambda: "kept" in server.log)
    assert server.post("/rerank", TEXTS, {"x-api-key": "third"}).status == 200


# -- the queue


def test_a_full_queue_sheds_in_words_and_says_when_to_come_back(start: Start) -> None:
    server = start("--milliseconds", "50", "--max-queue-tokens", "2000")
    assert (
        server.post("/rerank", {"query": "a", "texts": ["b" * 499] * 2}).status == 200
    )  # the speed is known: 10,000 a second
    with ThreadPoolExecutor(8) as clients:
        body = {"query": "a", "documents": ["b" * 499] * 3}
        answers = list(clients.map(lambda _: server.post("/v1/rerank", body), range(8)))
    statuses = sorted(answer.status for answer in answers)
    assert statuses[0] == 200
    assert statuses[-1] == 429
    refused = next(answer for answer in answers if answer.status == 429)
    assert "--max-queue-tokens" in in_words(refused)
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert server.metric("crossrt_queue_tokens") == server.metric("crossrt_queue_requests") == 0


def test_a_request_larger_than_the_queue_is_served_when_it_is_alone(start: Start) -> None:
    server = start("--max-queue-tokens", "10")
    assert server.post("/rerank", {"query": "a", "texts": ["b" * 400] * 5}).status == 200


def test_a_request_of_too_many_tokens_is_refused(start: Start) -> None:
    server = start("--milliseconds", "1", "--max-request-tokens", "100")
    answer = server.post("/rerank", {"query": "a", "texts": ["b" * 101]})
    assert answer.status == 422
    assert "--max-request-tokens" in in_words(answer)


def test_a_deadline_that_passes_ends_the_computation(start: Start, tmp_path: Path) -> None:
    scored = tmp_path / "scored"
    server = start("--milliseconds", "20", "--scored", str(scored))
    began = time.monotonic()
    answer = server.post("/v1/rerank", {"query": "a", "documents": ["b"] * 500}, {"x-request-timeout": "0.3"})
    assert answer.status == 504
    assert 0.25 < time.monotonic() - began < 2
    assert server.post("/rerank", TEXTS).status == 200
    assert int(scored.read_text()) < 60
    assert server.post("/rerank", TEXTS, {"x-request-timeout": "1e-9"}).status == 504
    for wrong in ("soon", "0", "-1", "nan"):
        assert server.post("/rerank", TEXTS, {"x-request-timeout": wrong}).status == 422


def test_a_deadline_that_passes_in_the_queue_leaves_nothing_to_compute(start: Start, tmp_path: Path) -> None:
    scored = tmp_path / "scored"
    server = start("--milliseconds", "20", "--scored", str(scored))
    before = int(eventually(lambda: scored.read_text() if scored.exists() else None))
    with ThreadPoolExecutor(2) as clients:
        first = clients.submit(server.post, "/rerank", {"query": "a", "texts": ["b"] * 50})
        time.sleep(0.2)
        late = clients.submit(server.post, "/rerank", {"query": "a", "texts": ["b"] * 50}, {"x-request-timeout": "0.2"})
        assert late.result().status == 504
        assert first.result().status == 200
    assert server.post("/rerank", {"query": "a", "texts": ["b"]}).status == 200
    assert int(scored.read_text()) - before == 51


def test_what_a_client_that_left_wanted_is_not_computed(start: Start, tmp_path: Path) -> None:
    scored = tmp_path / "scored"
    server = start("--milliseconds", "20", "--scored", str(scored))
    body = json.dumps({"query": "a", "texts": ["b"] * 1000}).encode()
    with server.connect() as client:
        client.sendall(b"POST /rerank HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        time.sleep(0.3)
    began = time.monotonic()
    assert server.post("/rerank", TEXTS).status == 200
    assert time.monotonic() - began < 2
    assert int(scored.read_text()) < 60
    assert server.metric('crossrt_requests_total{path="/rerank",status="499"}') == 1


def test_a_lower_priority_is_served_earlier(start: Start) -> None:
    server = start("--milliseconds", "20")
    ended: list[int] = []

    def post(priority: int, texts: int) -> None:
        assert server.post("/rerank", {"query": "a", "texts": ["b"] * texts, "priority": priority}).status == 200
        ended.append(priority)

    with ThreadPoolExecutor(3) as clients:
        clients.submit(post, 0, 50)
        for priority in (1, -1):
            time.sleep(0.2)
            clients.submit(post, priority, 5)
    assert ended == [0, -1, 1]


PASSES = [{"exact": True, "top_n": 100}, {"window": 20, "top_n": 100}]
"""What makes the model score the texts in more than one request; the stub's has two."""


@pytest.mark.parametrize("fields", PASSES)
@pytest.mark.parametrize("seconds", ["0.3", "1.4"])
def test_a_deadline_ends_both_passes(start: Start, tmp_path: Path, fields: dict[str, Any], seconds: str) -> None:
    scored = tmp_path / "scored"
    server = start("--milliseconds", "10", "--scored", str(scored))
    body = {"query": "a", "documents": ["b"] * 100, **fields}
    answer = server.post("/v1/rerank", body, {"x-request-timeout": seconds})
    assert answer.status == 504
    assert server.post("/rerank", TEXTS).status == 200
    time.sleep(0.3)
    assert server.post("/rerank", TEXTS).status == 200
    assert int(scored.read_text()) < 100 * float(seconds) + 20


@pytest.mark.parametrize("fields", PASSES)
def test_a_client_that_left_ends_both_passes(start: Start, tmp_path: Path, fields: dict[str, Any]) -> None:
    scored = tmp_path / "scored"
    server = start("--milliseconds", "10", "--scored", str(scored))
    body = json.dumps({"query": "a", "documents": ["b"] * 100, **fields}).encode()
    with server.connect() as client:
        client.sendall(b"POST /v1/rerank HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        time.sleep(0.3)
    time.sleep(0.5)
    assert server.post("/rerank", TEXTS).status == 200
    assert int(scored.read_text()) < 60


@pytest.mark.parametrize("fields", PASSES)
def test_both_passes_have_the_priority(start: Start, fields: dict[str, Any]) -> None:
    server = start("--milliseconds", "10")
    ended: list[int] = []

    def post(priority: int, texts: int) -> None:
        body = {"query": "a", "documents": ["b"] * texts, "priority": priority, **fields}
        assert server.post("/v1/rerank", body).status == 200
        ended.append(priority)

    def post_all(priority: int, texts: int, times: int, waiting: int) -> None:
        for _ in range(times):
            clients.submit(post, priority, texts)
        eventually(lambda: server.metric("crossrt_queue_requests{") == waiting)

    with ThreadPoolExecutor(24) as clients:
        post_all(0, 200, times=1, waiting=1)
        post_all(5, 2, times=20, waiting=21)
        post_all(-1, 2, times=1, waiting=22)
    assert sorted(ended[:2]) == [-1, 0], "the stub finishes a pass that has begun, whatever comes meanwhile"
    assert ended[2:] == [5] * 20


# -- a model that fails


def test_a_model_that_fails_makes_readiness_fail_until_it_works_again(start: Start) -> None:
    server = start("--milliseconds", "1")
    assert server.get("/readyz").status == 200
    answer = server.post("/v1/rerank", {"query": "a", "documents": ["FAIL"]})
    assert answer.status == 503
    assert "the stub is broken" in in_words(answer)
    assert int(answer.headers["retry-after"]) >= 1
    for path in ("/health", "/readyz", "/ping", "/v2/health/ready"):
        assert server.get(path).status == 503
    assert "the stub is broken" in server.get("/readyz").json["message"]
    assert server.get("/livez").status == 200
    assert server.metric("crossrt_ready") == 0
    assert server.post("/rerank", {"query": "a", "texts": ["REPAIR"]}).status == 200
    assert server.get("/readyz").status == 200
    assert server.post("/rerank", {"query": "a", "texts": ["NAN"]}).status == 503
    assert server.post("/predict", {"inputs": ["a", "NAN"]}).status == 503
    assert server.get("/readyz").status == 200  # a token is scored again


# -- the end


def test_sigterm_under_load_loses_nothing_that_was_accepted(start: Start) -> None:
    server = start("--milliseconds", "2", "--shutdown-delay", "1")
    failures: list[Any] = []
    answered, stop = [0], threading.Event()

    def load() -> None:
        connection = server.connection()
        while not stop.is_set():
            connection.request("POST", "/rerank", json.dumps(TEXTS))
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                failures.append(answer.status)
            answered[0] += 1
            if answer.headers.get("connection") == "close":
                connection.close()  # a balancer would turn to another server now
                return

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    eventually(lambda: answered[0] > 50)
    slow: Any = None
    with ThreadPoolExecutor(1) as client:
        slow = client.submit(server.post, "/rerank", {"query": "a", "texts": ["b"] * 600})
        time.sleep(0.1)
        server.signal(signal.SIGTERM)
        eventually(lambda: server.get("/readyz").status == 503, 5)
        assert (alive := server.get("/livez")).status == 200
        assert alive.headers["connection"] == "close"
        assert slow.result().status == 200  # took longer than the delay
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert server.process.wait(10) == 0


def test_the_drain_has_a_limit(start: Start) -> None:
    server = start("--milliseconds", "100", "--shutdown-timeout", "0.5")
    with ThreadPoolExecutor(1) as client:
        client.submit(lambda: server.post("/rerank", {"query": "a", "texts": ["b"] * 1000}))
        time.sleep(0.3)
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
        assert time.monotonic() - began < 5


def test_a_third_signal_ends_the_server_at_once(start: Start) -> None:
    server = start("--milliseconds", "100")
    with ThreadPoolExecutor(1) as client:
        cut = client.submit(server.post, "/rerank", {"query": "a", "texts": ["b"] * 1000})
        eventually(lambda: server.metric("crossrt_queue_requests{") == 1)
        for _ in range(2):
            server.signal(signal.SIGTERM)
            time.sleep(0.1)
        assert server.process.poll() is None
        server.signal(signal.SIGTERM)
        assert server.process.wait(2) == 0
        assert cut.result().status == 503


# -- addresses


def test_a_unix_socket_is_taken_over_from_a_killed_server_but_not_from_a_running_one(
    start: Start, tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    server = start("--uds", str(path))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"GET /readyz HTTP/1.1\r\nhost: a\r\n\r\n")
        assert client.recv(15) == b"HTTP/1.1 200 OK"
    with pytest.raises(RuntimeError, match="cannot listen on"):
        start("--uds", str(path))
    server.process.kill()
    server.process.wait()
    assert start("--uds", str(path)).path == str(path)


@pytest.mark.parametrize("error", [errno.EACCES, errno.EAGAIN], ids=["of another user", "busy"])
def test_a_unix_socket_that_cannot_be_tried_is_not_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as running:
        running.bind(str(path))
        running.listen()
        monkeypatch.setattr(socket.socket, "connect_ex", lambda self, address: error)
        with pytest.raises(OptionError, match=f"cannot listen on {path}: Address already in use"):
            listening_socket("", 0, path)
    assert path.is_socket()


def test_a_taken_port_is_an_error_in_words(start: Start, stub: Served) -> None:
    with pytest.raises(RuntimeError, match=f"crossrt: cannot listen on 127.0.0.1:{stub.port}: Address already in use"):
        start("--port", str(stub.port))


def test_a_port_can_be_taken_over_from_a_server_that_had_clients() -> None:
    with listening_socket("127.0.0.1", 0, None) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            server.accept()[0].close()  # the side that closes first keeps the port for a minute
            assert client.recv(1) == b""
    listening_socket("127.0.0.1", port, None).close()


@pytest.mark.parametrize(
    ("family", "name", "tls", "shown"),
    [
        (socket.AF_INET, ("127.0.0.1", 80), False, "http://127.0.0.1:80"),
        (socket.AF_INET6, ("::1", 80, 0, 0), True, "https://[::1]:80"),
        (socket.AF_UNIX, "/run/socket", False, "unix:/run/socket"),
    ],
)
def test_an_address_is_shown_as_clients_write_it(family: int, name: Any, tls: bool, shown: str) -> None:
    listening: Any = SimpleNamespace(family=family, getsockname=lambda: name)
    assert address(listening, tls=tls) == shown


def test_tls(start: Start, tmp_path: Path) -> None:
    import ssl
    import urllib.request

    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    words += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    try:
        subprocess.run(words, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    server = start("--tls-certificate", str(certificate), "--tls-key", str(key))
    assert f"serving on https://127.0.0.1:{server.port}" in server.log
    context = ssl.create_default_context(cafile=str(certificate))
    with urllib.request.urlopen(f"https://127.0.0.1:{server.port}/readyz", context=context) as answer:
        assert answer.status == 200


def test_cors(start: Start) -> None:
    server = start("--cors-origin", "https://a.example", "--cors-origin", "https://b.example")
    asked = {"origin": "https://b.example", "access-control-request-method": "POST"}
    assert server.ask("OPTIONS", "/rerank", None, asked).headers["access-control-allow-origin"] == "https://b.example"
    other = {**asked, "origin": "https://c.example"}
    assert "access-control-allow-origin" not in server.ask("OPTIONS", "/rerank", None, other).headers
    assert server.post("/rerank", TEXTS, {"origin": "https://a.example"}).headers["access-control-allow-origin"]


# -- logs and traces


def test_logs_hold_ids_and_traces_but_no_texts(start: Start) -> None:
    server = start("--log-format", "json")
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"x-request-id": "mine-1", "traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    answer = server.post("/v1/rerank", {"query": "SECRET", "documents": ["SECRET too"]}, headers)
    assert answer.headers["x-request-id"] == answer.json["id"] == "mine-1"
    line = json.loads(eventually(lambda: next((line for line in server.lines if "mine-1" in line), None)))
    assert line["trace"] == trace
    assert (line["status"], line["texts"], line["model"]) == (200, 1, "stub")
    server.post("/v1/rerank", {"query": 1, "documents": ["SECRET"]})
    server.post("/v1/rerank", b'{"query": "SECRET')
    made = server.post("/rerank", TEXTS, {"x-request-id": "b\tad"}).headers["x-request-id"]
    eventually(lambda: made in server.log)
    assert "SECRET" not in server.log
    assert all(json.loads(line) for line in server.lines)


def test_texts_are_logged_where_they_are_asked_for(start: Start) -> None:
    server = start("--log-format", "json", "--log-texts")
    server.post("/v1/rerank", {"query": "q", "documents": ["SECRET"]})
    assert eventually(lambda: "SECRET" in server.log)


# -- memory


@pytest.mark.slow
def test_a_hundred_thousand_requests_leave_no_memory_descriptors_or_threads(start: Start) -> None:
    import random

    server = start("--log-requests", "none")
    connection = server.connection()
    random.seed(5)

    def work(count: int) -> None:
        for _ in range(count):
            texts = ["b" * random.randrange(200)] * random.randrange(1, 200)
            connection.request("POST", "/v1/rerank", json.dumps({"query": "a", "documents": texts}))
            assert connection.getresponse().read()

    def state() -> tuple[int, int, int]:
        folder = Path(f"/proc/{server.process.pid}")
        status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line)
        return int(status["VmRSS"].split()[0]), len(list((folder / "fd").iterdir())), int(status["Threads"])

    with contextlib.closing(connection):
        work(1000)
        memory, files, threads = state()
        work(99_000)
        after = state()
    assert after[0] < 1.05 * memory
    assert after[1:] == (files, threads)


def test_nothing_of_the_server_is_loaded_by_importing_crossrt() -> None:
    names = {"uvicorn", "msgspec", "starlette", "prometheus_client", "crossrt.server"}
    code = f"import sys, crossrt.engine.cross_encoder; print(sorted({names} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_log_that_cannot_be_written_ends_no_connection(start: Start) -> None:
    """The server of this test has a log that works until it listens, and from then on one without room."""
    served = start(prefix=("bash", "-c", 'exec "$0" "$@" 2> >(sed -u "/serving on/q" >&2)'))
    connection = served.connection()
    for _ in range(5):
        connection.request("POST", "/rerank", json.dumps(TEXTS))
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200
        assert connection.sock is not None, "the server has closed the connection"
    connection.close()
