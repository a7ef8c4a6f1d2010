#!/usr/bin/env python3
"""How much does HTTP cost, and how long do small requests wait while large ones run?

    apt-get install wrk hey
    benchmarks/serving.py BUNDLE --precision int8 --out benchmarks/results/serving.json
    benchmarks/serving.py BUNDLE --tables peers --peer infinity=http://127.0.0.1:7997/rerank --out ...    # you started it

Load comes from `hey` and `wrk` on the same machine, over the loopback interface. The load generators use processor time that the
server then lacks. `--tables` measures only some of the tables; `--out` keeps the others that the file has. The tables:

- overhead: requests per second with a stub in place of the model (`stub_server.py`), with lists of 1, 10 and 100 texts (`wrk`).
  The baseline is a handler that only decodes and encodes the JSON (`bare_server.py`). The two take turns; medians are reported.
- closed: pairs per second for 64 clients, each with one request under way, with lists of 10, of 100, and mixed from 5 to 1,000
  (`hey`). The baseline is the same lists through `rank` in one process. The two take turns, and medians are reported. Every run
  is a fixed amount of work, so that no request is under way when the time is taken.
- waiting: milliseconds of a list of 10: one after the other, at 70 % of the throughput above, and beside lists of 1,000 (`wrk`).
  Requests arrive at given times, whether or not earlier ones are answered: evenly, or as a Poisson process.
- workers: pairs per second of one worker and of one worker per processor, measured as in `closed`, and the milliseconds of a list
  of 100 without other load (`wrk`). The two servers take turns. Rows of bundles with other names are kept.
- peers: pairs per second of other servers, measured as in `closed`.
"""

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
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
TABLES = ("overhead", "closed", "waiting", "workers", "peers")
THREADS = 4
"""Number of threads that call `rank` in one process."""
WRK = """
local file = io.open("@BODY@")
wrk.method, wrk.body = "POST", file:read("*a")
wrk.headers["content-type"] = "application/json"

function done(summary, latency, requests)
    local wrong = summary.errors.status + summary.errors.timeout + summary.errors.read + summary.errors.connect
    io.write(string.format("found %d %d %f %f %f\\n", summary.requests, wrong, summary.duration / 1e6,
        latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
"""
ARRIVALS = """
local ffi = require("ffi")
ffi.cdef("typedef struct { long s; long us; } tv; int gettimeofday(tv *, void *);")
local tv, due = ffi.new("tv"), nil
math.randomseed(1)

function delay()  -- milliseconds until the next request, which the next free connection sends
    ffi.C.gettimeofday(tv, nil)
    local now = tonumber(tv.s) + tonumber(tv.us) / 1e6
    due = (due or now) + @GAP@ / @RATE@
    return math.max(0, math.floor(1000 * (due - now) + 0.5))
end
"""
GAPS = {"evenly": "1", "poisson": "-math.log(1 - math.random())"}


def main() -> None:
    """Measure, print, and write JSON when asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--seconds", type=float, default=8, help="about how long each row takes")
    parser.add_argument("--rounds", type=int, default=3, help="of the tables overhead, closed and workers")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES)
    parser.add_argument(
        "--lists", nargs="+", choices=LISTS, default=list(LISTS), help="of the tables closed, workers and peers"
    )
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=URL", help="another server's rerank path")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    result: dict[str, Any] = {}
    if arguments.out and arguments.out.exists():
        before = json.loads(arguments.out.read_text())
        result = {table: before[table] for table in TABLES if table in before}
    result |= {"bundle": arguments.bundle.name, "precision": arguments.precision, "clients": CLIENTS}
    with tempfile.TemporaryDirectory() as folder:
        bodies = Bodies(arguments.bundle, Path(folder))
        for table in arguments.tables:
            result[table] = {**result.get(table, {}), **MEASURES[table](arguments, bodies, result)}
            if arguments.out:
                write_result(arguments.out, result)


class Bodies:
    """Requests of random words with the lengths of MS MARCO's, one for each number of texts."""

    def __init__(self, bundle: Path, folder: Path) -> None:
        self._tokenizer = read_tokenizer(Bundle.open(bundle).tokenizer_file)
        self.folder = folder

    def list(self, size: int) -> tuple[str, list[str]]:
        """Return a query and `size` texts."""
        pairs = typical_pairs(self._tokenizer, size, seed=size)
        return pairs[0][0], [text for _, text in pairs]

    def file(self, size: int) -> Path:
        """Return a JSON file with a request of `size` texts."""
        path = self.folder / f"{size}.json"
        query, texts = self.list(size)
        path.write_text(json.dumps({"query": query, "documents": texts, "model": "default"}))
        return path


# -- tables


def overhead(arguments: argparse.Namespace, bodies: Bodies, result: dict[str, Any]) -> dict[str, Any]:
    """Return requests per second and processor microseconds per request of the stub and the bare server, by number of texts."""
    rows = {}
    here = Path(__file__)
    with server(here.with_name("stub_server.py")) as stub, server(here.with_name("bare_server.py"), own=()) as bare:
        for count in (1, 10, 100):
            body, seconds = bodies.file(count), arguments.seconds / arguments.rounds
            measured = [(*cost(stub, body, seconds), *cost(bare, body, seconds)) for _ in range(arguments.rounds)]
            rate, used, bare_rate, bare_used = (statistics.median(each) for each in zip(*measured, strict=True))
            rows[str(count)] = said(
                texts=count,
                requests_per_second=round(rate),
                processor_us=round(used, 1),
                bare_requests_per_second=round(bare_rate),
                bare_processor_us=round(bare_used, 1),
            )
    return rows


def cost(served: "Server", body: Path, seconds: float) -> tuple[float, float]:
    """Return requests per second, and microseconds of the server's processor time per request."""
    before = served.processor_seconds()
    found = wrk(f"{served.url}/v1/rerank", body, seconds, connections=16)
    return found["requests"] / found["seconds"], 1e6 * (served.processor_seconds() - before) / found["requests"]


def closed(arguments: argparse.Namespace, bodies: Bodies, result: dict[str, Any]) -> dict[str, Any]:
    """Return pairs per second of the server and of `rank`, by list length."""
    rows = {}
    with (
        server(None, str(arguments.bundle), "--precision", arguments.precision) as served,
        CrossEncoder(arguments.bundle, precision=arguments.precision) as model,
    ):
        url = f"{served.url}/v1/rerank"
        speed = in_process(model, bodies, (100,), 5)
        for name in arguments.lists:
            sizes = LISTS[name]
            requests = rounded(speed * arguments.seconds * len(sizes) / sum(sizes), CLIENTS)
            measured = [
                (hey(url, bodies, sizes, requests), in_process(model, bodies, sizes, requests))
                for _ in range(arguments.rounds)
            ]
            there, here = (statistics.median(each) for each in zip(*measured, strict=True))
            rows[name] = said(
                lists=name,
                pairs_per_second=round(there, 1),
                in_process=round(here, 1),
                share=round(there / here, 3),
                rounds=[[round(value, 1) for value in each] for each in measured],
            )
    return rows


def waiting(arguments: argparse.Namespace, bodies: Bodies, result: dict[str, Any]) -> dict[str, Any]:
    """Return the times of a list of 10: without other load, at 70 % of the throughput, and beside lists of 1,000."""
    rate = 0.7 * result["closed"]["10"]["pairs_per_second"] / 10
    small, large, seconds = bodies.file(10), bodies.file(1000), arguments.seconds
    rows: dict[str, Any] = {}
    with server(None, str(arguments.bundle), "--precision", arguments.precision) as served:
        url = f"{served.url}/v1/rerank"
        wrk(url, small, 2, connections=4)
        alone = wrk(url, small, seconds, connections=1)

        def add(name: str, found: dict[str, float]) -> None:
            figures = {
                "requests": int(found["requests"]),
                **{each: round(found[each], 1) for each in ("p50_ms", "p99_ms")},
            }
            rows[name] = said(row=name, **figures, p99_by_p50_alone=round(found["p99_ms"] / alone["p50_ms"], 2))

        add("one after the other", alone)
        for gaps in GAPS:
            name = f"{rate:.0f} a second, {gaps} (70 %)"
            add(name, wrk(url, small, 2 * seconds, connections=CLIENTS, rate=rate, gaps=gaps))
        with ThreadPoolExecutor(1) as pool:
            others = pool.submit(wrk, url, large, 2 * seconds + 3, connections=8, rate=rate / 200, gaps="evenly")
            time.sleep(1)
            found = wrk(url, small, 2 * seconds, connections=CLIENTS, rate=rate / 2, gaps="evenly")
            add(f"{rate / 2:.0f} a second, evenly, with {rate / 200:.2f} lists of 1,000 a second (35 % each)", found)
            others.result()
            others = pool.submit(wrk, url, large, seconds + 3, connections=1)
            time.sleep(1)
            add(
                "one after the other, beside lists of 1,000 one after the other (100 %)",
                wrk(url, small, seconds, connections=1),
            )
            others.result()
    return rows


def workers(arguments: argparse.Namespace, bodies: Bodies, result: dict[str, Any]) -> dict[str, Any]:
    """Measure one worker and one worker per processor.

    Returns their pairs per second by bundle and list length, and the median time of a list of 100 without other load.
    """
    rows, name, several = {}, arguments.bundle.name, len(os.sched_getaffinity(0))
    options = (None, str(arguments.bundle), "--precision", arguments.precision)
    with server(*options) as one, server(*options, "--workers", str(several)) as others:
        urls = [f"{served.url}/v1/rerank" for served in (one, others)]
        speed, _ = (hey(url, bodies, (100,), CLIENTS) for url in urls)  # this also warms both up
        for lists in arguments.lists:
            sizes = LISTS[lists]
            requests = rounded(speed * arguments.seconds * len(sizes) / sum(sizes), CLIENTS)
            measured = [[hey(url, bodies, sizes, requests) for url in urls] for _ in range(arguments.rounds)]
            single, many = (statistics.median(each) for each in zip(*measured, strict=True))
            rows[f"{name}, {lists}"] = said(
                bundle=name,
                lists=lists,
                workers=several,
                one_worker=round(single, 1),
                several_workers=round(many, 1),
                ratio=round(many / single, 3),
                rounds=[[round(value, 1) for value in each] for each in measured],
            )
        alone = [wrk(url, bodies.file(100), arguments.seconds / 2, connections=1)["p50_ms"] for url in urls]
        rows[f"{name}, alone"] = said(bundle=name, workers=several, p50_ms_of_100_alone=alone)
    return rows


def peers(arguments: argparse.Namespace, bodies: Bodies, result: dict[str, Any]) -> dict[str, Any]:
    """Return pairs per second of other servers, by name and list length."""
    rows: dict[str, Any] = result.get("peers", {})
    for peer in arguments.peer:
        name, _, url = peer.partition("=")
        hey(url, bodies, (10,), 2)
        for lists in arguments.lists:
            sizes = LISTS[lists]
            requests = rounded(arguments.seconds * 100 * len(sizes) / sum(sizes), CLIENTS)
            found = hey(url, bodies, sizes, requests)
            rows.setdefault(name, {})[lists] = said(peer=name, lists=lists, pairs_per_second=round(found, 1))
    return rows


MEASURES = {"overhead": overhead, "closed": closed, "waiting": waiting, "workers": workers, "peers": peers}


# -- servers and load


class Server:
    """A running server: its address and its process."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process, self.url = process, url

    def processor_seconds(self) -> float:
        """Return the processor time that the server's main process has used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


OPTIONS = ("--port", "0", "--log-requests", "none", "--shutdown-delay", "0")
OPTIONS += ("--request-timeout", "600", "--header-timeout", "600", "--max-queue-tokens", "100000000")
"""Options without a log line per request and without limits that the load could reach."""


@contextmanager
def server(script: Path | None, *words: str, own: Sequence[str] = OPTIONS) -> Iterator[Server]:
    """Start `crossrt serve`, or a script that serves, with its `own` options."""
    command = [sys.executable, str(script)] if script else crossrt_command("serve")
    process = subprocess.Popen([*command, *words, *own], stderr=subprocess.PIPE, text=True)
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


def hey(url: str, bodies: Bodies, sizes: tuple[int, ...], requests: int) -> float:
    """Send `requests` requests from `CLIENTS` clients, divided equally among the sizes. Return pairs per second."""
    each, clients = requests // len(sizes), min(CLIENTS, requests) // len(sizes)
    options = ["-n", str(each), "-c", str(clients), "-t", "0", "-m", "POST", "-T", "application/json"]
    commands = [["hey", *options, "-D", str(bodies.file(size)), url] for size in sizes]
    began = time.monotonic()
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    outputs = [process.communicate()[0] for process in running]
    took = time.monotonic() - began
    for output in outputs:
        if f"[200]\t{each} responses" not in output:
            sys.exit(output)
    return each * sum(sizes) / took


def in_process(model: CrossEncoder, bodies: Bodies, sizes: tuple[int, ...], requests: int) -> float:
    """Return pairs per second of the same requests through `rank` in `THREADS` threads."""
    lists = [bodies.list(size) for size in sizes] * (requests // len(sizes))
    with ThreadPoolExecutor(THREADS) as pool:
        began = time.monotonic()
        list(pool.map(lambda each: model.rank(*each), lists))
        return sum(len(texts) for _, texts in lists) / (time.monotonic() - began)


def wrk(
    url: str, body: Path, seconds: float, *, connections: int, rate: float | None = None, gaps: str = "evenly"
) -> dict[str, float]:
    """Return the number of answered requests, the seconds, and p50 and p99 in milliseconds.

    Without a rate, each connection sends its next request as soon as the last one is answered.
    """
    script = body.with_suffix(f".{connections}.lua")
    arrivals = "" if rate is None else ARRIVALS.replace("@GAP@", GAPS[gaps]).replace("@RATE@", str(rate))
    script.write_text(WRK.replace("@BODY@", str(body)) + arrivals)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{round(seconds)}s", "--timeout", "600s", "-s", str(script), url]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"found (\d+) (\d+) ([\d.]+) ([\d.]+) ([\d.]+)", output)
    if not found or int(found[2]):
        sys.exit(output)
    return {
        "requests": float(found[1]),
        "seconds": float(found[3]),
        "p50_ms": float(found[4]),
        "p99_ms": float(found[5]),
    }


def rounded(number: float, to: int) -> int:
    """Return the nearest multiple of `to`, but at least `to`."""
    return max(1, round(number / to)) * to


def said(**row: Any) -> dict[str, Any]:
    """Print a row, and return it."""
    print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    return row


if __name__ == "__main__":
    main()
