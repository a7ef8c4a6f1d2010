"""Answers to scoring requests are one write, and otherwise what uvicorn would send."""

import asyncio
import json
import socket
import time
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="crossrt[serve] is not installed")

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from crossrt.server.dialects.job import Outcome
from crossrt.server.dialects.request_error import RequestError
from crossrt.server.http.response import Response
from crossrt.server.http_request import HttpRequest
from crossrt.server.routes import SCORING_ROUTES

from .conftest import Served

BODY = b'{"query": "q", "documents": ["one", "three"]}'


def request(*headers: bytes, version: bytes = b"1.1") -> bytes:
    lines = (b"POST /v2/rerank HTTP/" + version, b"host: h", b"content-length: %d" % len(BODY), *headers)
    return b"\r\n".join((*lines, b"", BODY))


def until_closed(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def test_headers_and_body_arrive_together(stub: Served) -> None:
    with stub.connect() as connection:
        connection.sendall(request())
        head, _, body = connection.recv(65536).partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 200 OK"
    assert sorted(line.partition(b":")[0] for line in lines[1:]) == [
        b"content-length",
        b"content-type",
        b"date",
        b"x-request-id",
    ]
    assert b"content-length: %d" % len(body) in lines


def test_the_connection_is_closed_where_the_client_asks_for_it_or_speaks_http_1_0(stub: Served) -> None:
    for sent in (request(b"connection: close"), request(version=b"1.0")):
        with stub.connect() as connection:
            connection.sendall(sent)
            assert b"\r\nconnection: close\r\n" in until_closed(connection)


def test_requests_that_are_sent_at_once_are_answered_in_their_order(stub: Served) -> None:
    ids = [b"a", b"b", b"c"]
    sent = [request(b"x-request-id: " + each, *([b"connection: close"] if each == b"c" else [])) for each in ids]
    with stub.connect() as connection:
        connection.sendall(b"".join(sent))
        answers = until_closed(connection)
    assert [part.partition(b"\r\n")[0] for part in answers.split(b"x-request-id: ")[1:]] == ids


def test_a_client_that_waits_to_be_told_to_continue_is_told_once(stub: Served) -> None:
    head, _, body = request(b"expect: 100-continue", b"connection: close").partition(b"\r\n\r\n")
    with stub.connect() as connection:
        connection.sendall(head + b"\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 100 Continue")
        connection.sendall(body)
        assert until_closed(connection).startswith(b"HTTP/1.1 200 OK")


UPGRADE = (
    b"connection: Upgrade, HTTP2-Settings",
    b"upgrade: h2c",
    b"http2-settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
)
"""What Java's HttpClient sends with the first request of a connection."""


def test_a_client_that_asks_for_http_2_is_answered_in_http_1_1(stub: Served) -> None:
    expected = stub.post("/v2/rerank", json.loads(BODY)).json["results"]
    for at in (0, 40, len(request(*UPGRADE)) - len(BODY), len(request(*UPGRADE)) - 5):  # where what is sent is divided
        with stub.connect() as connection:
            sent = request(*UPGRADE)
            connection.sendall(sent[:at])
            time.sleep(0.05)
            connection.sendall(sent[at:] + request(b"connection: close"))
            answers = until_closed(connection)
        assert answers.count(b"HTTP/1.1 200 OK") == 2
        assert answers.count(json.dumps(expected, separators=(",", ":")).encode()) == 2
    assert "upgrade" not in stub.log.lower()


def test_chunks_and_web_sockets_are_read_as_if_nothing_else_was_asked_for(stub: Served) -> None:
    with stub.connect() as connection:
        lines = (
            b"POST /v2/rerank HTTP/1.1",
            b"host: h",
            b"transfer-encoding: chunked",
            b"expect: 100-continue",
            *UPGRADE,
        )
        connection.sendall(b"\r\n".join((*lines, b"", b"")))
        assert connection.recv(65536).startswith(b"HTTP/1.1 100 Continue")
        connection.sendall(b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY))
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")
        connection.sendall(b"GET /livez HTTP/1.1\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n\r\n")
        answer = until_closed(connection)
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b"connection: close" in answer


def test_an_answer_to_head_has_the_headers_of_get_and_no_body(stub: Served) -> None:
    with stub.connect() as connection:
        connection.sendall(
            b"HEAD /docs HTTP/1.1\r\nhost: h\r\n\r\nGET /docs HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n"
        )
        first, second, body = until_closed(connection).split(b"\r\n\r\n", 2)
    assert b"\r\ncontent-length: %d\r\n" % len(body) in first + b"\r\n"
    assert second.startswith(b"HTTP/1.1 200 OK"), "nothing stands between the two"


@pytest.mark.parametrize(
    ("asked", "most", "least"),
    [(None, 60, 59), (b"2.5", 2.5, 1.5), (b"1000", 60, 59), (b"inf", 60, 59), (b" 1e1 ", 10, 9)],
)
def test_a_client_can_ask_for_less_time_and_not_for_more(asked: bytes | None, most: float, least: float) -> None:
    call = HttpRequest("/rerank", None, {} if asked is None else {b"x-request-timeout": asked})
    assert least < call.seconds_left(60) < most


def test_an_answer_of_several_megabytes_is_whole(stub: Served) -> None:
    texts = ["x" * 20_000] * 200
    answer = stub.post("/v1/rerank", {"query": "q", "documents": texts})
    assert [each["document"]["text"] for each in answer.json["results"]] == texts


def test_a_uvicorn_that_keeps_its_state_elsewhere_sends_answers_itself() -> None:
    class Cycle(RequestResponseCycle):
        def __init__(self) -> None:
            self.sent: list[Any] = []

        async def send(self, message: Any) -> None:
            self.sent.append(message)

    cycle = Cycle()
    asyncio.run(Response(200, b"{}").send(cycle.send))
    assert [message["type"] for message in cycle.sent] == ["http.response.start", "http.response.body"]


@pytest.mark.parametrize(
    ("device", "kind"), [("cpu", b"cpu"), ("cuda:0", b"gpu+optimized"), ("cuda:0,cuda:1", b"gpu+optimized")]
)
def test_teis_headers_tell_where_the_model_runs_and_how_long_it_took(device: str, kind: bytes) -> None:
    route = next(route for route in SCORING_ROUTES if route.path == "/rerank")
    call = HttpRequest(route.path, route, {})
    call.body = route.decode(json.dumps({"query": "a", "texts": ["b"]}).encode())
    model: Any = SimpleNamespace(name="m", labels=("LABEL_0",), model=SimpleNamespace(device=device))
    run: Any = SimpleNamespace(job=call.body.job(), accepted=1.0, began=1.002, tokenized=1.005, done=1.009)
    answer = call.scored_response(Outcome(tokens=5, relevance=[1.0], scores=[0.7]), run, model)
    headers = dict(answer.headers)
    assert 0 <= int(headers.pop(b"x-total-time")) == int(headers.pop(b"x-compute-time")) < 1000
    assert headers == {
        b"x-compute-type": kind,
        b"x-compute-characters": b"2",
        b"x-compute-tokens": b"5",
        b"x-queue-time": b"2",
        b"x-tokenization-time": b"3",
        b"x-inference-time": b"4",
    }


@pytest.mark.parametrize(
    "inputs",
    [
        ["q", ["a", "b"]],
        [["q", "a"], "b"],
        [["q"]],
        [["q", "a", "b"]],
        [[]],
        ["q"],
        "q",
        ["q", "a", "b"],
        [["q", "a"], []],
    ],
)
def test_inputs_that_are_no_pairs_are_refused(inputs: Any) -> None:
    route = next(route for route in SCORING_ROUTES if route.path == "/predict")
    with pytest.raises(RequestError, match="this model scores pairs") as refused:
        route.decode(json.dumps({"inputs": inputs}).encode()).job()
    assert refused.value.kind == "validation"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/rerank", {"query": "a", "texts": ["b"]}),
        ("/v1/rerank", {"query": "a", "documents": ["b"]}),
        ("/score", {"text_1": "a", "text_2": "b"}),
        ("/predict", {"inputs": ["a", "b"]}),
        ("/v1/ranking", {"query": {"text": "a"}, "passages": [{"text": "b"}]}),
    ],
)
def test_each_dialect_has_priorities(path: str, body: dict[str, Any]) -> None:
    route = next(route for route in SCORING_ROUTES if route.path == path)
    assert route.decode(json.dumps({**body, "priority": -3}).encode()).job().priority == -3
    assert route.decode(json.dumps(body).encode()).job().priority == 0
