#!/usr/bin/env python3
"""How long does a small request take while a large one runs, and how much does it slow the large one down?

    benchmarks/turns.py BUNDLE --queries Q.tsv --passages P.tsv --run R.trec [--before CHECKOUT] --out turns.json

One thread scores requests of 1,000 pairs in a loop. Meanwhile another thread scores requests of 5 pairs, one after the other,
with a pause of 0 to 20 ms in between, so that they arrive at any moment of a batch. Small and large requests are also timed
without each other. With `--exact`, all requests are exact rankings: `rank(..., top_k=k, exact=True)`.

`--before` names a checkout of another version, with its kernels compiled. Each version runs in its own process. The two take
turns, step by step, so that slower or faster minutes of the machine affect both. Scores are compared bit by bit.
"""

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

LARGE, SMALL, TOP_K = 1000, 5, 2
Pairs = list[tuple[str, str]]


def main() -> None:
    """Measure, print, and write JSON when asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    for name in ("queries", "passages", "run"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--before", type=Path, help="checkout of the version to compare with")
    parser.add_argument("--precision", action="append", help="default: int8 and fp32")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--exact", action="store_true", help="rank exactly instead of scoring")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=6.0, help="of small beside large requests, in each round")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        serve_steps(arguments)
        return
    with tempfile.TemporaryDirectory() as packages:
        result = {
            precision: measured(arguments, precision, Path(packages))
            for precision in arguments.precision or ("int8", "fp32")
        }
    if arguments.out is not None:
        from result import write_result

        write_result(arguments.out, {"large": LARGE, "small": SMALL, "exact": arguments.exact, "results": result})


def measured(arguments: argparse.Namespace, precision: str, packages: Path) -> dict[str, Any]:
    """Return the figures of each version in this precision."""
    checkouts = {"after": Path(__file__).resolve().parents[1]}
    if arguments.before is not None:
        checkouts = {"before": arguments.before.resolve(), **checkouts}
    children = {name: Child(arguments, precision, root, packages / name) for name, root in checkouts.items()}
    steps: dict[str, list[dict[str, Any]]] = {name: [] for name in children}
    for round_number in range(arguments.rounds):
        for step in ("small", "large", "large", "beside"):
            for name in list(children) if round_number % 2 else list(children)[::-1]:
                steps[name].append(children[name].step(step))
    for child in children.values():
        child.close()
    rows = {name: summary(each) for name, each in steps.items()}
    for name, row in rows.items():
        print(f"{precision:5s} {name:7s} {json.dumps(row)}")
    if len(rows) == 1:
        return dict(rows)
    larges = [np.array([step["seconds"] for step in steps[name] if step["step"] == "large"]) for name in rows]
    hashes = {step["sha256"] for each in steps.values() for step in each if step["step"] == "large"}
    ratios = np.percentile(larges[0] / larges[1], [50, 5, 95]).round(3).tolist()
    both = {"large_alone_after_to_before_median_p5_p95": ratios, "same_bits": len(hashes) == 1}
    print(f"{precision:5s} {json.dumps(both)}")
    return {**rows, **both}


def summary(steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Return percentiles of the small requests' times in milliseconds, and pairs per second of the large ones."""
    small, beside = (
        np.concatenate([step["small"] for step in steps if step["step"] == name]) for name in ("small", "beside")
    )
    alone = [LARGE / step["seconds"] for step in steps if step["step"] == "large"]
    rates = {name: [step[name] for step in steps if step["step"] == "beside"] for name in ("large_rate", "small_rate")}
    points = np.array([np.percentile(each, [50, 95, 99]) for each in (small, beside)])
    return {
        "small_alone_ms_p50_p95_p99": (1e3 * points[0]).round(1).tolist(),
        "small_beside_ms_p50_p95_p99": (1e3 * points[1]).round(1).tolist(),
        "beside_to_alone_p50_p95_p99": (points[1] / points[0]).round(2).tolist(),
        "small_requests_beside": len(beside),
        "large_alone_pairs_per_s": round(float(np.median(alone)), 1),
        "large_beside_pairs_per_s": round(float(np.median(rates["large_rate"])), 1),
        "small_beside_pairs_per_s": round(float(np.median(rates["small_rate"])), 1),
    }


class Child:
    """A process with one version of the package. It does one step at a time."""

    def __init__(self, arguments: argparse.Namespace, precision: str, checkout: Path, packages: Path) -> None:
        packages.mkdir()
        (packages / "crossrt").symlink_to(checkout)
        command = [sys.executable, __file__, str(arguments.bundle), "--child", "--precision", precision]
        for name in ("queries", "passages", "run", "backend", "seconds"):
            command += [f"--{name}", str(getattr(arguments, name))]
        self._process = subprocess.Popen(
            command + ["--exact"] * arguments.exact,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(packages)},
        )
        self.step("small")  # a warm-up

    def step(self, name: str) -> dict[str, Any]:
        """Do one step and return its figures."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{name}\n")
        self._process.stdin.flush()
        figures: dict[str, Any] = json.loads(self._process.stdout.readline())
        return {"step": name, **figures}

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def serve_steps(arguments: argparse.Namespace) -> None:
    """Do the steps named on standard input, one per line, and write the figures of each as a line of JSON."""
    from crossrt import CrossEncoder
    from crossrt.engine.files.trec import read_collection

    queries, passages, run = read_collection(arguments.queries, arguments.passages, arguments.run)
    pairs = [(queries[query], passages[name]) for query, scores in run.items() for name in scores]
    [precision] = arguments.precision
    with CrossEncoder(arguments.bundle, precision=precision, device="cpu", backend=arguments.backend) as model:

        def score(pairs: Pairs) -> Any:
            if arguments.exact:
                return model.rank(pairs[0][0], [text for _, text in pairs], top_k=TOP_K, exact=True)
            return model.predict(pairs).tolist()

        steps = Steps(score, pairs, arguments.seconds)
        for line in sys.stdin:
            print(json.dumps(getattr(steps, line.strip())()), flush=True)


class Steps:
    """The steps of the measurement. Each method is a step."""

    def __init__(self, score: Callable[[Pairs], Any], pairs: Pairs, seconds: float) -> None:
        self._score = score
        self._large = pairs[:LARGE]
        self._smalls = [pairs[start : start + SMALL] for start in range(LARGE, len(pairs) - SMALL, SMALL)]
        self._seconds = seconds
        self._chance = random.Random(0)

    def small(self) -> dict[str, Any]:
        """Time 50 small requests without large ones."""
        return {"small": [self._timed_small() for _ in range(50)]}

    def large(self) -> dict[str, Any]:
        """Time one large request without small ones."""
        begin = time.perf_counter()
        scores = self._score(self._large)
        seconds = time.perf_counter() - begin
        return {"seconds": seconds, "sha256": hashlib.sha256(json.dumps(scores).encode()).hexdigest()}

    def beside(self) -> dict[str, Any]:
        """Time small requests while large ones are scored in a loop."""
        stop, finished = threading.Event(), []

        def loop() -> None:
            while not stop.is_set():
                self._score(self._large)
                finished.append(time.perf_counter())

        begin = time.perf_counter()
        thread = threading.Thread(target=loop)
        thread.start()
        time.sleep(0.1)
        small = []
        while time.perf_counter() - begin < self._seconds:
            small.append(self._timed_small())
        seconds = time.perf_counter() - begin
        stop.set()
        thread.join()
        return {
            "small": small,
            "small_rate": SMALL * len(small) / seconds,
            "large_rate": LARGE * len(finished) / (finished[-1] - begin),
        }

    def _timed_small(self) -> float:
        time.sleep(self._chance.uniform(0, 0.02))
        pairs = self._chance.choice(self._smalls)
        begin = time.perf_counter()
        self._score(pairs)
        return time.perf_counter() - begin


if __name__ == "__main__":
    main()
