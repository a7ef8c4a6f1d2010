"""No connection outlives the times that its client has, whatever the client sends, and no client pays for the server's pauses."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

for package in ("uvicorn", "httptools"):
    pytest.importorskip(package, reason="crossrt[serve] is not installed")

import uvicorn
from uvicorn.server import ServerState

from crossrt.server.http.response import Response
from crossrt.server.http.slow_clients import MAX_HEADER_BYTES, ClientTimeouts, Connection, close_slow

TIMEOUTS = ClientTimeouts(headers=10, body=30, answer=60)
HALF = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n12345"
GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


class Transport(asyncio.Transport):
    """A connection to no one, which stays open while it is closing, as TLS does until the client agrees."""

    def __init__(self) -> None:
        super().__init__()
        self.written, self.closing, self.aborted = b"", False, False

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: Any) -> None:
        self.written += data

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True


class Client:
    """A connection of a server that answers every request without its body, and the client's side of it."""

    def __init__(self, answering: asyncio.Event | None) -> None:
        self.transport = Transport()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if answering is not None:
                await answering.wait()
            await Response(401, b"{}").send(send)

        config = uvicorn.Config(app, ws="none", lifespan="off", log_config=None, timeout_keep_alive=0.02)  # type: ignore[arg-type]
        self.connection: Any = Connection(config, ServerState(), {})
        self.connection.connection_made(self.transport)

    async def send(self, data: bytes) -> None:
        self.connection.data_received(data)
        for _ in range(5):  # turns of the event loop, in which the application answers
            await asyncio.sleep(0)

    def after(self, seconds: float) -> bool:
        """Let the server look after its connections `seconds` from now. Tell whether it has ended this one."""
        close_slow([self.connection], TIMEOUTS, self.connection.loop.time() + seconds)
        return self.transport.aborted

    async def is_closed_when_idle(self) -> bool:
        await asyncio.sleep(0.05)
        return self.transport.closing and not self.transport.aborted


def with_client(test: Callable[[Client], Awaitable[None]], answering: asyncio.Event | None = None) -> None:
    async def run() -> None:
        await test(Client(answering))

    asyncio.run(run())


@pytest.mark.parametrize("later", [b"", b"6"], ids=["nothing more", "a byte more"])
def test_a_body_that_stops_after_its_answer_ends_the_connection(later: bytes) -> None:
    async def run(client: Client) -> None:
        await client.send(HALF)
        assert client.transport.written.startswith(b"HTTP/1.1 401")
        if later:
            await client.send(later)
        assert not client.after(29)
        assert client.after(31)

    with_client(run)


@pytest.mark.parametrize(
    "parts",
    [(HALF, b"67890"), (HALF, b"67", b"890"), (GET, b"\r\n"), (GET, b"\r", b"\n")],
    ids=["a body after its answer", "a body in two parts after its answer", "a line break", "half a line break"],
)
def test_what_comes_after_an_answer_does_not_keep_an_idle_connection(parts: tuple[bytes, ...]) -> None:
    async def run(client: Client) -> None:
        for part in parts:
            await client.send(part)
        assert client.transport.written.count(b"HTTP/1.1 401") == 1
        assert await client.is_closed_when_idle()

    with_client(run)


def test_a_request_that_follows_the_rest_of_a_body_is_answered() -> None:
    async def run(client: Client) -> None:
        await client.send(HALF)
        await client.send(b"67890" + GET + b"\r\n" + GET[:5])
        await client.send(GET[5:])
        assert client.transport.written.count(b"HTTP/1.1 401") == 3
        assert await client.is_closed_when_idle()

    with_client(run)


@pytest.mark.parametrize("begun", [GET[:9], GET[:1]], ids=["half a line", "a letter"])
def test_half_of_the_next_headers_have_their_time(begun: bytes) -> None:
    async def run(client: Client) -> None:
        await client.send(GET)
        await client.send(begun)
        assert not await client.is_closed_when_idle(), "a request has begun"
        assert not client.after(9)
        assert client.after(11)

    with_client(run)


@pytest.mark.parametrize("target", [b"GET ?x", b"GET http://host", b"CONNECT host:443"])
def test_a_target_that_is_no_path_ends_only_its_own_connection(target: bytes) -> None:
    async def run(client: Client) -> None:
        await client.send(target + b" HTTP/1.1\r\nhost: a\r\n\r\n")
        assert client.transport.written.startswith(b"HTTP/1.1 400")
        assert client.transport.closing
        assert client.after(31), "a client that does not let TLS end"

    with_client(run)


@pytest.mark.parametrize("half", [HALF, GET[:9]], ids=["a body", "headers"])
def test_a_request_behind_another_has_its_time_from_when_the_server_reads_again(half: bytes) -> None:
    async def run() -> None:
        answering = asyncio.Event()
        client = Client(answering)
        await client.send(GET)
        await client.send(GET + half)
        assert client.connection.flow.read_paused
        assert not client.after(31)
        answering.set()
        await asyncio.sleep(0.01)
        assert client.transport.written.count(b"HTTP/1.1 401") >= 2
        assert not client.connection.flow.read_paused
        assert not client.after(31 + 9)
        assert client.after(31 + 31)

    asyncio.run(run())


def test_an_answer_waits_for_a_client_that_does_not_read_the_last_one() -> None:
    async def run(client: Client) -> None:
        client.connection.pause_writing()
        await client.send(GET)
        assert client.transport.written == b""
        client.connection.resume_writing()
        await asyncio.sleep(0.01)
        assert client.transport.written.startswith(b"HTTP/1.1 401")

    with_client(run)


def test_nothing_is_written_to_a_client_that_has_left() -> None:
    async def run() -> None:
        answering = asyncio.Event()
        client = Client(answering)
        await client.send(GET)
        client.connection.connection_lost(None)
        answering.set()
        await asyncio.sleep(0.01)
        assert client.transport.written == b""

    asyncio.run(run())


def connection(**fields: Any) -> Any:
    """A connection of which only the times are looked at."""
    aborted: list[bool] = []
    transport = SimpleNamespace(
        get_write_buffer_size=lambda: fields.get("unread", 0), abort=lambda: aborted.append(True)
    )
    times = {"headers_since": None, "body_since": None, "unread_since": None}
    flow = SimpleNamespace(read_paused=False)
    return SimpleNamespace(transport=transport, aborted=aborted, flow=flow, **{**times, **fields})


def test_an_answer_that_is_read_late_is_forgiven_and_one_that_is_not_read_is_not() -> None:
    one = connection(unread=5)
    for now in (0, 60):
        close_slow([one], TIMEOUTS, now)
    assert not one.aborted
    one.transport.get_write_buffer_size = lambda: 0
    close_slow([one], TIMEOUTS, 61)
    one.transport.get_write_buffer_size = lambda: 5
    close_slow([one], TIMEOUTS, 62)
    assert not one.aborted
    close_slow([one], TIMEOUTS, 122.5)
    assert one.aborted


@pytest.mark.parametrize(
    ("started", "complete", "aborted", "given_up"),
    [(False, False, False, True), (True, False, False, False), (True, True, True, False)],
)
def test_a_late_body_is_refused_before_its_answer_and_ends_the_connection_after_it(
    started: bool, complete: bool, aborted: bool, given_up: bool
) -> None:
    refused: list[float] = []
    cycle = SimpleNamespace(response_started=started, response_complete=complete)
    one = connection(body_since=0, cycle=cycle, give_up_body=refused.append)
    close_slow([one], TIMEOUTS, 30)
    assert not one.aborted
    assert not refused
    close_slow([one], TIMEOUTS, 30.5)
    assert bool(one.aborted) == aborted
    assert refused == [30] * given_up


@pytest.mark.parametrize(
    "line",
    [b"GET /" + 2 * MAX_HEADER_BYTES * b"a", GET[:-2] + b"x: " + 2 * MAX_HEADER_BYTES * b"a"],
    ids=["path", "header"],
)
def test_headers_without_an_end_are_refused(line: bytes) -> None:
    async def run(client: Client) -> None:
        await client.send(GET)
        await client.send(line[:9])
        await client.send(line[9 : 9 + MAX_HEADER_BYTES])
        assert client.transport.written.count(b"HTTP/1.1") == 1, "not too large yet"
        assert not client.transport.closing
        await client.send(b"a")
        assert client.transport.closing
        status, _, words = client.transport.written.partition(b"HTTP/1.1 431 ")[2].partition(b"\r\n\r\n")
        assert status.startswith(b"Request Header Fields Too Large\r\n")
        assert words == b"the headers are too large: 65536 bytes are allowed"
        assert b"content-length: %d\r\n" % len(words) in status

    with_client(run)


def test_the_limit_of_headers_is_for_one_request_and_not_for_bodies() -> None:
    half = MAX_HEADER_BYTES // 2
    request = b"POST / HTTP/1.1\r\ncontent-length: %d\r\nx: " % (3 * half) + half * b"a" + b"\r\n\r\n" + 3 * half * b"b"

    async def run(client: Client) -> None:
        for _ in range(3):
            for begin in range(0, len(request), 10_000):
                await client.send(request[begin : begin + 10_000])
        assert client.transport.written.count(b"HTTP/1.1 401") == 3
        assert not client.transport.closing

    with_client(run)


def test_headers_that_are_too_large_behind_an_unanswered_request_end_the_connection() -> None:
    async def run(client: Client) -> None:
        await client.send(GET + GET[:9])
        await client.send(MAX_HEADER_BYTES * b"a" + b"a")
        assert client.transport.aborted
        assert b"431" not in client.transport.written

    with_client(run, answering=asyncio.Event())
