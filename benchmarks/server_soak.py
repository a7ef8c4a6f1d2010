#!/usr/bin/env python3
"""Do a server's memory, descriptors, threads and scores stay the same over 100,000 requests?

    benchmarks/server_soak.py BUNDLE --precision int8 --out benchmarks/results/server_soak.json

Clients of `crossrt serve` send requests drawn from a seeded pool, with 1 to 50 texts of uneven lengths, small numbers more often.
Each client keeps its connection for 1,000 requests and then opens another. A repeated request must get the same scores as the
first time, within 1e-5 in FP32 and bit for bit in other precisions. Growth is the largest resident memory of the server relative
to that after the first thousand requests. The open descriptors and threads at the end are compared with those after the first
thousand requests, both times without clients. The exit status is 1 for an error, a changed score, growth beyond 5 %, or more
descriptors or threads than before.
"""

import argparse
import json
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

from memory import WORDS
from result import write_result
from serving import server

CLIENTS = 16
POOL = 500
"""Number of different requests."""
CONNECTION_REQUESTS = 1000
SETTLED = 1000
"""Number of requests after which memory may not grow any more."""
LIMIT = 0.05
ATOL = 1e-5
SECONDS_LEFT = 2.0
"""How long the server may take to see that its clients have closed their connections."""


def main() -> None:
    """Send the requests, print, and write JSON when asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--texts", type=int, default=50, help="texts of the largest request")
    parser.add_argument("--words", type=int, default=16, help="words of the longest text")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with server(None, str(arguments.bundle), "--precision", arguments.precision) as served:
        soak = Soak(served.url, served.process.pid, arguments)
        soak.send(SETTLED)
        before = soak.held()
        began = time.monotonic()
        soak.send(arguments.requests - SETTLED)
        seconds = time.monotonic() - began
        after = soak.held()
    settled = before["resident_mb"]
    growth = max(soak.resident) / settled - 1
    result = {
        "bundle": arguments.bundle.name,
        "precision": arguments.precision,
        "requests": soak.done,
        "texts": soak.texts,
        "clients": CLIENTS,
        "seconds": round(seconds, 1),
        "resident_mb": soak.resident,
        "growth": round(growth, 4),
        "descriptors": [before["descriptors"], after["descriptors"]],
        "threads": [before["threads"], after["threads"]],
        "other_scores": soak.changed,
        "errors": soak.errors[:10],
    }
    print(json.dumps({name: value for name, value in result.items() if name != "resident_mb"}))
    print(f"{settled:.0f} MB after {SETTLED} requests, {max(soak.resident):.0f} MB at most")
    if arguments.out:
        write_result(arguments.out, result)
    left = after["descriptors"] > before["descriptors"] or after["threads"] > before["threads"]
    sys.exit(bool(soak.errors or soak.changed or growth > LIMIT or left))


class Soak:
    """Sends requests to a server and checks the answers. `resident` has the server's memory in MB over time."""

    def __init__(self, url: str, pid: int, arguments: argparse.Namespace) -> None:
        chance = random.Random(0)
        self._pool = [
            {
                "query": " ".join(chance.choices(WORDS, k=chance.randint(2, 8))),
                "texts": [
                    " ".join(chance.choices(WORDS, k=chance.randint(1, arguments.words)))
                    for _ in range(round(arguments.texts ** chance.random()))
                ],
                "raw_scores": True,
            }
            for _ in range(POOL)
        ]
        self._address, self._pid = urlsplit(url).netloc, pid
        self._every = max(1, arguments.requests // 100)
        self._atol = ATOL if arguments.precision == "fp32" else 0.0
        self._expected: dict[int, list[float]] = {}
        self._lock = Lock()
        self.done = self.changed = self.texts = 0
        self.errors: list[str] = []
        self.resident: list[float] = []

    def send(self, requests: int) -> None:
        """Send the requests, rounded up to the same number for each client. Then wait until the server sees the clients go."""
        with ThreadPoolExecutor(CLIENTS) as clients:
            list(clients.map(self._send, range(CLIENTS), [-(-requests // CLIENTS)] * CLIENTS))
        time.sleep(SECONDS_LEFT)

    def _send(self, client: int, requests: int) -> None:
        chance = random.Random(f"{client} {requests}")
        connection = HTTPConnection(self._address, timeout=60)
        for number in range(requests):
            if number % CONNECTION_REQUESTS == 0:
                connection.close()  # the next request opens another
            which = chance.randrange(POOL)
            try:
                connection.request("POST", "/rerank", json.dumps(self._pool[which]))
                response = connection.getresponse()
                answer = json.loads(response.read())
                if response.status != 200:
                    raise RuntimeError(f"status {response.status}: {answer}")
            except Exception as error:  # any error is a finding
                connection.close()
                with self._lock:
                    self.errors.append(f"{type(error).__name__}: {error}")
                continue
            self._take(which, [each["score"] for each in sorted(answer, key=lambda each: int(each["index"]))])
        connection.close()

    def _take(self, which: int, scores: list[float]) -> None:
        with self._lock:
            first = self._expected.setdefault(which, scores)
            self.changed += any(abs(one - other) > self._atol for one, other in zip(first, scores, strict=True))
            self.done += 1
            self.texts += len(scores)
            if self.done % self._every == 0:
                self.resident.append(self.held()["resident_mb"])

    def held(self) -> dict[str, Any]:
        """Return the server's resident memory in MB, its open descriptors and its threads."""
        process = Path(f"/proc/{self._pid}")
        facts = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        return {
            "resident_mb": round(int(facts["VmRSS"].split()[0]) / 1000, 1),
            "descriptors": len(list((process / "fd").iterdir())),
            "threads": int(facts["Threads"]),
        }


if __name__ == "__main__":
    main()
