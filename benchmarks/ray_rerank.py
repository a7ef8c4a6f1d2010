#!/usr/bin/env python3
"""What does reranking on Ray cost compared with one process, and which failures does it survive?

    benchmarks/ray_rerank.py speed BUNDLE --queries Q.tsv --passages P.tsv --pairs 100000 --out FILE.json
    benchmarks/ray_rerank.py start BUNDLE --queries Q.tsv --passages P.tsv --pairs 1000 --out FILE.json
    benchmarks/ray_rerank.py memory BUNDLE --queries Q.tsv --passages P.tsv --pairs 50000 500000 --out FILE.json
    benchmarks/ray_rerank.py kills BUNDLE --queries Q.tsv --passages P.tsv --pairs 60000 --kills 12 --seed 1 --out FILE.json

Each mode adds its result to the file. The candidates of a query are a seeded sample of the passages. Queries are repeated under
other ids until there are enough pairs.

- `speed` runs the commands `crossrt rerank` and `crossrt rerank --ray local` in turns, from start to end. It needs a quiet
  machine.
- `start` does the same with a job of one block, which shows how long starting and stopping take.
- `memory` follows the driver's and the actors' own memory, and runs the finished job once more.
- `kills` has a head without processors and two nodes with one processor each. It kills actors, raylets and drivers in balanced
  numbers at random moments. In the end the run must have the same bytes as one process, and no committed part may have been
  written again.
"""

import argparse
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

from result import write_result

KINDS = ("actor", "raylet", "driver")
SYSTEMS = ("one process", "ray")
MEASURED = ("seconds", "processor_seconds")
BLOCK = 500
"""Pairs of a block in `kills`: small, so that many are under way, committed and waiting when something dies."""
NODE_STORE = 100 << 20


def main() -> None:
    """Measure, print, and add to a JSON file when asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "start", "memory", "kills"))
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--queries", type=Path, required=True)
    parser.add_argument("--passages", type=Path, required=True)
    parser.add_argument("--pairs", type=int, nargs="+", required=True)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--under", default="", help="words before each command of `speed`, such as taskset -c 0,1")
    parser.add_argument(
        "--threads", type=int, help="processors of an actor in `speed`; by default the job's own choice"
    )
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        job = Job(Path(name), arguments)
        found = {"speed": speed, "start": speed, "memory": memory, "kills": kills}[arguments.what](job, arguments)
    print(json.dumps(found, indent=1))
    if arguments.out:
        before = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
        kept = {what: before[what] for what in ("speed", "start", "memory", "kills") if what in before}
        before = kept.get(arguments.what, {})
        if arguments.what == "kills":
            kept["kills"] = added(before, found)
        else:
            key = f"{arguments.bundle.name} {arguments.precision}"
            found = found if arguments.what == "memory" else shares(with_rounds(before.get(key, {}), found))
            kept[arguments.what] = {**before, key: found}
        write_result(arguments.out, kept)
    sys.exit(bool(found.get("failures")))


class Job:
    """Writes runs with a given number of pairs, and makes the commands that rerank them."""

    def __init__(self, folder: Path, arguments: argparse.Namespace) -> None:
        self.folder = folder
        self.arguments = arguments
        self.store = folder / "store"
        prepare = [
            sys.executable,
            "-m",
            "crossrt",
            "prepare",
            str(arguments.bundle),
            str(arguments.passages),
            str(self.store),
        ]
        subprocess.run(prepare, check=True, capture_output=True)
        self._texts = dict(line.split("\t", 1) for line in arguments.queries.read_text(encoding="utf-8").splitlines())
        self._docnos = [line.split("\t")[0] for line in arguments.passages.read_text(encoding="utf-8").splitlines()]

    def files(self, pairs: int, each: int = 1000) -> tuple[Path, Path]:
        """Write queries and a run with `each` candidates for each of them, and return their paths."""
        queries, run = self.folder / f"queries-{pairs}.tsv", self.folder / f"run-{pairs}.trec"
        chance = random.Random(0)
        texts = list(self._texts.values())
        with queries.open("w", encoding="utf-8") as query_file, run.open("w", encoding="utf-8") as run_file:
            for number in range(-(-pairs // each)):
                query_file.write(f"q{number}\t{texts[number % len(texts)]}\n")
                found = chance.sample(self._docnos, min(each, pairs - number * each))
                run_file.writelines(
                    f"q{number} Q0 {docno} {rank} {-rank} seeded\n" for rank, docno in enumerate(found, start=1)
                )
        return queries, run

    def command(self, files: tuple[Path, Path], out: Path, *options: object) -> list[str]:
        """Return the command line of `crossrt rerank`."""
        return [
            *(sys.executable, "-m", "crossrt", "rerank", str(self.arguments.bundle), "--store", str(self.store)),
            *("--queries", str(files[0]), "--run", str(files[1]), "--out", str(out), "--device", "cpu"),
            *("--precision", self.arguments.precision, *map(str, options)),
        ]


def speed(job: Job, arguments: argparse.Namespace) -> dict[str, Any]:
    """Time both commands in turns, from start to end, and compare the bytes of their outputs."""
    [pairs] = arguments.pairs
    files = job.files(pairs)
    threads = ["--threads", arguments.threads] if arguments.threads else []
    found: dict[str, Any] = {"pairs": pairs, "threads_of_an_actor": arguments.threads, "same_bytes": True}
    found |= {measured: {name: [] for name in SYSTEMS} for measured in MEASURED}
    for number in range(arguments.rounds):
        outs = {name: job.folder / f"{name}-{number}.trec" for name in SYSTEMS}
        for name, out in outs.items():
            words = job.command(files, out, *(["--ray", "local", *threads] if name == "ray" else []))
            for measured, value in timed(shlex.split(arguments.under), words).items():
                found[measured][name].append(value)
        found["same_bytes"] &= outs["ray"].read_bytes() == outs["one process"].read_bytes()
    return shares(found)


def with_rounds(before: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Return a measurement with the rounds of an earlier one added, if both are of the same job."""
    if before.get("pairs") != found["pairs"] or before["threads_of_an_actor"] != found["threads_of_an_actor"]:
        return found
    rounds = {
        measured: {name: before[measured][name] + values for name, values in found[measured].items()}
        for measured in MEASURED
    }
    return {**found, **rounds, "same_bytes": before["same_bytes"] and found["same_bytes"]}


def shares(found: dict[str, Any]) -> dict[str, Any]:
    """Add the rates, from the medians of the rounds, and Ray's rate as a share of one process's."""
    rates = {name: round(found["pairs"] / median(values), 1) for name, values in found["seconds"].items()}
    return {**found, "pairs_per_s": rates, "share": round(rates["ray"] / rates["one process"], 3)}


def timed(before: list[str], words: list[str]) -> dict[str, float]:
    """Run a command under the words `before`. Return its seconds and processor seconds, without the time that `before` waits."""
    code = f"import sys; sys.path[:0] = {sys.path!r}; import ray_rerank; ray_rerank.run_timed(sys.argv[1:])"
    done = subprocess.run([*before, sys.executable, "-c", code, *words], check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def run_timed(words: list[str]) -> None:
    """Run a command. Print its seconds, and the processor seconds of all processes that it starts.

    No process waits for Ray's workers, so their processor time is read while they run.
    """
    begin = time.perf_counter()
    used: dict[int, float] = {}
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as command:
        while command.poll() is None:
            for pid in [command.pid, *descendants(command.pid)]:
                used[pid] = max(used.get(pid, 0.0), processor_seconds(pid))
            time.sleep(0.2)
    seconds = time.perf_counter() - begin
    print(json.dumps({"seconds": round(seconds, 2), "processor_seconds": round(sum(used.values()), 2)}))
    sys.exit(command.returncode)


def processor_seconds(pid: int) -> float:
    """Return the processor seconds that a process has used itself, or 0 if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(job: Job, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the largest resident memory of the driver and of an actor for each number of pairs, without mapped files, in MB.

    `rerun_s` is the time of the command when all parts are finished: it only reads the run and merges.
    """
    rows = {}
    for pairs in arguments.pairs:
        out = job.folder / f"{pairs}.trec"
        words = job.command(job.files(pairs), out, "--ray", "local")
        peaks = {"driver": 0.0, "actor": 0.0}
        with subprocess.Popen(words, stderr=subprocess.DEVNULL) as driver:
            while driver.poll() is None:
                peaks["driver"] = max(peaks["driver"], own_memory(driver.pid))
                for pid in descendants(driver.pid):
                    if title(pid).startswith("ray::MapWorker"):
                        peaks["actor"] = max(peaks["actor"], own_memory(pid))
                time.sleep(0.1)
        assert driver.returncode == 0
        begin = time.perf_counter()
        subprocess.run(words, check=True, stderr=subprocess.DEVNULL)
        again = round(time.perf_counter() - begin, 2)
        rows[str(pairs)] = {f"{name}_mb": round(value, 1) for name, value in peaks.items()} | {"rerun_s": again}
    return rows


def kills(job: Job, arguments: argparse.Namespace) -> dict[str, Any]:
    """Kill processes, start a killed driver again, and check every finished run."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    [pairs] = arguments.pairs
    files = job.files(pairs)
    expected = job.folder / "expected.trec"
    subprocess.run(job.command(files, expected), check=True, stderr=subprocess.DEVNULL)
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": NODE_STORE},
    )
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=NODE_STORE) for _ in range(2)]
    chance = random.Random(arguments.seed)
    counts: Counter[str] = Counter()
    failures: list[str] = []
    runs = begun = blocks = 0
    try:
        while sum(counts.values()) < arguments.kills:
            out = job.folder / f"killed-{runs}.trec"
            words = job.command(files, out, "--ray", cluster.address, "--ray-block", BLOCK, "--threads", 1)
            log = job.folder / "log"
            stamps: dict[str, tuple[int, int]] = {}
            attempts: set[str] = set()
            driver = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=log.open("w"))
            end = time.monotonic() + wait_of(chance)
            while driver.poll() is None:
                attempts |= {path.name for path in out.parent.glob(f"{out.name}.parts/begun/*/[0-9a-f]*")}
                if time.monotonic() > end and sum(counts.values()) < arguments.kills:
                    stamps = {**committed(out), **stamps}
                    kind = min(chance.sample(KINDS, k=len(KINDS)), key=counts.__getitem__)
                    if kind == "driver":
                        driver.kill()
                        driver.wait()
                        driver = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=log.open("w"))
                    elif kind == "raylet":
                        number = chance.randrange(len(nodes))
                        os.kill(raylet(nodes[number]), signal.SIGKILL)
                        cluster.remove_node(nodes[number], allow_graceful=False)
                        nodes[number] = cluster.add_node(num_cpus=1, object_store_memory=NODE_STORE)
                    else:
                        alive = [
                            pid
                            for node in nodes
                            for pid in descendants(raylet(node))
                            if title(pid).startswith("ray::MapWorker")
                        ]
                        if not alive:
                            continue
                        os.kill(chance.choice(alive), signal.SIGKILL)
                    counts[kind] += 1
                    end = time.monotonic() + wait_of(chance)
                time.sleep(0.02)
            runs += 1
            if driver.returncode:
                failures.append(f"exit status {driver.returncode}: {log.read_text()[-500:]}")
                continue
            after = committed(out)
            begun, blocks = begun + len(attempts), blocks + len(after)
            if out.read_bytes() != expected.read_bytes():
                failures.append("the run differs from that of one process")
            if changed := [name for name, stamp in stamps.items() if after.get(name) != stamp]:
                failures.append(f"parts were written again: {changed}")
    finally:
        cluster.shutdown()
    return {
        "pairs_of_a_run": pairs,
        "block": BLOCK,
        "runs": runs,
        "kills": {kind: counts[kind] for kind in KINDS},
        "blocks": blocks,
        "begun": begun,
        "failures": failures,
    }


def added(before: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Return the sum of two campaigns of the same kind."""
    if not before:
        return found
    total = {name: before[name] + found[name] for name in ("runs", "blocks", "begun", "failures")}
    return {**found, **total, "kills": {kind: before["kills"][kind] + found["kills"][kind] for kind in KINDS}}


def wait_of(chance: random.Random) -> float:
    """Return the seconds to the next kill. Some are so short that a driver, an actor or a node is still starting."""
    return chance.uniform(0.5, 12)


def committed(out: Path) -> dict[str, tuple[int, int]]:
    """Return the inode and modification time of each committed part."""
    found = {}
    for path in out.parent.glob(f"{out.name}.parts/parts/[0-9a-f]*"):
        status = path.stat()
        found[path.name] = status.st_ino, status.st_mtime_ns
    return found


def raylet(node: Any) -> int:
    """Return the process id of a node's raylet."""
    return int(node.all_processes["raylet"][0].process.pid)


def descendants(pid: int) -> list[int]:
    """Return the process ids of all descendants of a process."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found, waiting = [], [pid]
    while waiting:
        parent = waiting.pop()
        children = [child for child, its in parents.items() if its == parent]
        found += children
        waiting += children
    return found


def title(pid: int) -> str:
    """Return the command line of a process, which it may have set itself, or an empty text if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def own_memory(pid: int) -> float:
    """Return the resident memory of a process without mapped files, in MB, or 0 if it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0.0
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return int(fields.get("RssAnon", "0 kB").split()[0]) / 1e3


if __name__ == "__main__":
    main()
