#!/usr/bin/env python3
"""How much does HTTP cost, and how long do small requests wait beside large ones?

    apt-get install wrk hey
    benchmarks/serving.py BUNDLE --precision int8 --out benchmarks/results/serving.json
    benchmarks/serving.py BUNDLE --peer infinity=http://127.0.0.1:7997/rerank     # another server, which you have started

Load comes from `wrk` (closed loops: as many requests as connections are always under way) and `hey` (a rate), on the same machine
over the loopback interface, so that their own time counts against the server. The tables:

- overhead: a stub in place of the model (`stub_server.py`), with lists of 1, 10 and 100.
- closed: 64 clients with lists of 10, of 100, and mixed from 5 to 1,000; beside it the same lists through `rank` in one process.
- waiting: lists of 10 alone, at 70 % of that throughput, and beside a client with lists of 1,000.
"""

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from result import write_result

from crossrt import CrossEncoder
from crossrt.engine.bundle.bundle import Bundle
from crossrt.engine.process.child import crossrt_command
from crossrt.engine.text.tokenizer import read_tokenizer
from crossrt.engine.text.typical_pairs import typical_pairs

CLIENTS = 64
MIXED = (5, 10, 20, 50, 100, 200, 500, 1000)
LISTS = {"10": (10,), "100": (100,), "mixed": MIXED}
POOL = 32
"""Different bodies of each kind."""
THREADS = 4
"""Threads that call `rank` in one process."""
WRK = """
local bodies, place = {}, 0
for line in io.lines("@FILE@") do bodies[#bodies + 1] = line end
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
request = function() place = place % #bodies + 1; return wrk.format(nil, nil, nil, bodies[place]) end
"""


def main() -> None:
    """Measure, print, and write JSON when asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--seconds", type=int, default=10, help="of each row")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=URL", help="another server's rerank path")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measured(arguments, Path(folder))
    if arguments.out:
        write_result(arguments.out, result)


def measured(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return all tables, printed row by row."""
    seconds, rows = arguments.seconds, Bodies(arguments.bundle, folder)
    result: dict[str, Any] = {"bundle": arguments.bundle.name, "precision": arguments.precision, "seconds": seconds}
    result["clients"] = CLIENTS
    result["overhead"] = []
    with server(Path(__file__).with_name("stub_server.py")) as stub:
        for count in (1, 10, 100):
            result["overhead"].append(said({"texts": count, **overhead(stub, rows.file((count,)), seconds)}))
    result["closed"] = []
    with server(None, str(arguments.bundle), "--precision", arguments.precision) as served:
        for name, sizes in LISTS.items():
            row = {"lists": name, "pairs_per_second": closed(served, rows.file(sizes), seconds)}
            row["in_process"] = in_process(arguments, rows.lists(sizes))
            row["share"] = round(row["pairs_per_second"] / row["in_process"], 3)
            result["closed"].append(said(row))
        rate = 0.7 * result["closed"][0]["pairs_per_second"] / 10
        result["waiting"] = [said(row) for row in waiting(served, rows, rate, seconds)]
    result["peers"] = []
    for peer in arguments.peer:
        name, _, url = peer.partition("=")
        for lists, sizes in LISTS.items():
            if len(sizes) == 1:
                per_second = wrk(url, rows.file(sizes), seconds)["requests_per_second"] * sizes[0]
                result["peers"].append(said({"peer": name, "lists": lists, "pairs_per_second": round(per_second, 1)}))
    return result


class Bodies:
    """Requests of random words with the lengths of MS MARCO's, in files with one a line."""

    def __init__(self, bundle: Path, folder: Path) -> None:
        self._tokenizer = read_tokenizer(Bundle.open(bundle).tokenizer_file)
        self._folder = folder

    def lists(self, sizes: tuple[int, ...]) -> list[tuple[str, list[str]]]:
        """Return queries with as many texts as the sizes say, in turn."""
        found = []
        for number in range(max(POOL, len(sizes))):
            pairs = typical_pairs(self._tokenizer, sizes[number % len(sizes)], seed=number)
            found.append((pairs[0][0], [text for _, text in pairs]))
        random.Random(0).shuffle(found)
        return found

    def file(self, sizes: tuple[int, ...]) -> Path:
        """Return a file of such requests."""
        path = self._folder / f"{'-'.join(map(str, sizes))}.jsonl"
        bodies = [json.dumps({"query": query, "documents": texts}) for query, texts in self.lists(sizes)]
        path.write_text("\n".join(bodies) + "\n")
        return path


class Server:
    """A running server: its address and its process."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process, self.url = process, url

    def metric(self, name: str) -> float:
        """Return the sum of a metric's series."""
        with urllib.request.urlopen(f"{self.url}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name}{{"))

    def processor_seconds(self) -> float:
        """Return the processor time of the process so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def server(script: Path | None, *words: str) -> Iterator[Server]:
    """Start `crossrt serve`, or the stub, without a log line a request."""
    own = [sys.executable, str(script)] if script else crossrt_command("serve")
    options = ["--port", "0", "--log-requests", "none", "--shutdown-delay", "0", "--max-queue-tokens", "100000000"]
    process = subprocess.Popen([*own, *words, *options], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if found := re.search(r"serving on (http\S+)", line):
                yield Server(process, found[1])
                break
        else:
            sys.exit("the server did not start")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        process.stderr.close()


def wrk(url: str, bodies: Path, seconds: int, clients: int = CLIENTS) -> dict[str, float]:
    """Return requests a second of closed loops. Exits for answers other than 200."""
    script = bodies.with_suffix(".lua")
    script.write_text(WRK.replace("@FILE@", str(bodies)))
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "60s", "-s", str(script), url]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in said:
        sys.exit(said)
    return {
        "requests_per_second": float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1]),  # type: ignore[index]
        "requests": float(re.search(r"(\d+) requests in", said)[1]),  # type: ignore[index]
    }


def hey(url: str, bodies: Path, seconds: int, *, rate: float | None, clients: int) -> dict[str, float]:
    """Return p50 and p99 in ms of requests that come at a rate, or one after the other of each client."""
    body = bodies.with_suffix(".json")
    body.write_text(bodies.read_text().splitlines()[0])
    command = ["hey", "-z", f"{seconds}s", "-c", str(clients), "-m", "POST", "-T", "application/json", "-D", str(body)]
    command += [] if rate is None else ["-q", f"{rate / clients:.3f}"]
    said = subprocess.run([*command, "-o", "csv", url], capture_output=True, text=True, check=True).stdout
    times = sorted(float(line.split(",")[0]) for line in said.splitlines()[1:])
    return {
        "requests": len(times),
        "p50_ms": round(1000 * times[len(times) // 2], 2),
        "p99_ms": round(1000 * times[int(0.99 * len(times))], 2),
    }


def overhead(stub: Server, bodies: Path, seconds: int) -> dict[str, float]:
    """Return requests a second, and the server's processor time of each."""
    before = stub.processor_seconds()
    found = wrk(f"{stub.url}/v1/rerank", bodies, seconds, 16)
    used = stub.processor_seconds() - before
    return {
        "requests_per_second": round(found["requests_per_second"]),
        "processor_us": round(1e6 * used / found["requests"], 1),
    }


def closed(served: Server, bodies: Path, seconds: int) -> float:
    """Return the pairs that the server scores in a second for `CLIENTS` closed loops."""
    wrk(f"{served.url}/v1/rerank", bodies, 2)
    before, began = served.metric("crossrt_request_texts_sum"), time.monotonic()
    wrk(f"{served.url}/v1/rerank", bodies, seconds)
    return round((served.metric("crossrt_request_texts_sum") - before) / (time.monotonic() - began), 1)


def in_process(arguments: argparse.Namespace, lists: list[tuple[str, list[str]]]) -> float:
    """Return the pairs that threads score in a second through `rank`."""
    with CrossEncoder(arguments.bundle, precision=arguments.precision) as model, ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda each: model.rank(*each), lists))
        done, began = 0, time.monotonic()
        while time.monotonic() - began < arguments.seconds:
            done += sum(len(found) for found in pool.map(lambda each: model.rank(*each), lists))
        return round(done / (time.monotonic() - began), 1)


def waiting(served: Server, bodies: Bodies, rate: float, seconds: int) -> Iterator[dict[str, Any]]:
    """Yield rows of lists of 10: alone, at a rate, and beside lists of 1,000."""
    url, small, large = f"{served.url}/v1/rerank", bodies.file((10,)), bodies.file((1000,))
    yield {"beside": "nothing", **hey(url, small, seconds, rate=None, clients=1)}
    yield {"beside": f"others, {rate:.1f} requests a second", **hey(url, small, seconds, rate=rate, clients=16)}
    with ThreadPoolExecutor(1) as pool:
        others = pool.submit(wrk, url, large, seconds + 2, 1)
        time.sleep(1)
        yield {"beside": "lists of 1,000, one after the other", **hey(url, small, seconds, rate=2, clients=1)}
        others.result()


def said(row: dict[str, Any]) -> dict[str, Any]:
    """Print a row, and return it."""
    print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    return row


if __name__ == "__main__":
    main()
