#!/usr/bin/env python3
"""A minimal server of this API in Python, the baseline for `serving.py`: it decodes the JSON and encodes an answer.

Like `crossrt serve` it uses uvicorn and msgspec. It has no checks, keys, limits, queue, metrics or logs.

    benchmarks/bare_server.py
"""

import sys
from typing import Any

import msgspec
import uvicorn

from crossrt.server.http.listening import address, listening_socket


class Request(msgspec.Struct):
    """A query and its documents."""

    query: str
    documents: list[str]


class Result(msgspec.Struct):
    """The index of a document, and its length as its score."""

    index: int
    relevance_score: float


decode, encode = msgspec.json.Decoder(Request).decode, msgspec.json.Encoder().encode


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer a request whose body comes in one message."""
    documents = decode((await receive())["body"]).documents
    body = encode({"results": [Result(place, float(len(text))) for place, text in enumerate(documents)]})
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    """Serve on a free port until SIGTERM."""
    listening = listening_socket("127.0.0.1", 0, None)
    print(f"serving on {address(listening, tls=False)}", file=sys.stderr, flush=True)
    uvicorn.Server(uvicorn.Config(application, lifespan="off", log_config=None, access_log=False)).run([listening])


if __name__ == "__main__":
    main()
