#!/usr/bin/env python3
"""How fast is crossrt compared with its peers on a CPU, from raw text to scores? A request is one query with its candidates.

    benchmarks/peers/environments
    benchmarks/cpu.py CHECKPOINT BUNDLE --queries Q.tsv --passages P.tsv --run R.trec --out result.json

Each system is a process in its own environment, with the same weights and number of threads. Every request goes to all
systems one after the other, in an order that rotates with each request. A process without a request is stopped, so that it
cannot disturb the others. A ratio compares two systems' times for the same request; the output has the median and the 5th and
95th percentile of these ratios. Scores are compared with PyTorch's FP32 scores, and systems with other scores are marked.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from peers.peer import EXACT_TOP, NATIVE, SYSTEMS
from result import write_result
from tqdm import tqdm

from crossrt.calibration.ranking import top_overlap
from crossrt.engine.batching.plan import MAX_TOKENS, plan_batches
from crossrt.engine.bundle.bundle import Bundle
from crossrt.engine.files.publish import published_file
from crossrt.engine.files.trec import read_collection
from crossrt.engine.hardware.cpus import usable_cpus
from crossrt.speed.ceiling.ceilings import again, ceilings
from crossrt.speed.operations import flops_of

HERE = Path(__file__).parent
REFERENCE = "PyTorch FP32"
ENVIRONMENTS = {
    "PyTorch": "torch",
    "torch.compile": "torch",
    "sentence-transformers ONNX": "onnx",
    "sentence-transformers OpenVINO": "openvino",
    "Optimum": "onnx",
    "fastembed": "fastembed",
    "FlashRank": "flashrank",
}
EXACT, RANKED = 1e-3, 0.85
"""Limits for equal scores: the largest absolute difference for systems in FP32, the least top-10 overlap for others."""

FEW, SLOW = 5, 3
"""After FEW requests, a system that takes SLOW times as long as the reference gets no more requests."""


class Process:
    """The process of a system, stopped while it has no request. `failed` is the reason if it does not run, or empty."""

    def __init__(self, system: str, python: Path, arguments: list[str]) -> None:
        self.system = system
        self.seconds: dict[int, float] = {}
        self.scores: dict[int, np.ndarray[Any, Any]] = {}
        self.versions: dict[str, str] = {}
        self.failed = "" if python.is_file() else f"no environment: {python} is missing"
        if self.failed:
            return
        environment = os.environ | {"OMP_NUM_THREADS": arguments[2], "HF_HUB_OFFLINE": "1"}
        self.child = subprocess.Popen(
            [str(python), str(HERE / "peers/peer.py"), system, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        said = self._answer()
        self.versions = said.get("versions", {})
        self.failed = said.get("failed", "")
        self._stop()

    def score(self, query: str, passages: list[str], *, number: int | None = None) -> None:
        """Send a request. Keep its time and scores under `number`, unless that is None."""
        if self.failed:
            return
        assert self.child.stdin
        self.child.send_signal(signal.SIGCONT)
        print(json.dumps({"query": query, "passages": passages}), file=self.child.stdin, flush=True)
        said = self._answer()
        self._stop()
        self.failed = said.get("failed", "")
        if number is not None and not self.failed:
            self.seconds[number] = said["seconds"]
            self.scores[number] = np.array(said["scores"])

    def close(self) -> None:
        if hasattr(self, "child"):
            self.child.kill()
            self.child.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self.child.stdout
        line = self.child.stdout.readline()
        return json.loads(line) if line else {"failed": f"ended with status {self.child.wait()}"}  # type: ignore[no-any-return]

    def _stop(self) -> None:
        if not self.failed:
            self.child.send_signal(signal.SIGSTOP)


def main() -> None:
    """Measure, print, and write JSON when asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("bundle", type=Path)
    for name in ("queries", "passages", "run"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=43, help="queries to measure")
    parser.add_argument("--candidates", type=int, default=100, help="passages of each")
    parser.add_argument("--rounds", type=int, default=1, help="times each request is sent")
    parser.add_argument("--threads", type=int, default=usable_cpus())
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--environments", type=Path, default=HERE.parent / ".peers")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--into", type=Path, help="JSON file of the same requests, to put these systems' rows into")
    arguments = parser.parse_args()
    queries, passages, run = read_collection(arguments.queries, arguments.passages, arguments.run)
    requests = [
        (queries[query], [passages[name] for name in list(candidates)[: arguments.candidates]])
        for query, candidates in list(run.items())[: arguments.requests]
    ]
    with contextlib.ExitStack() as running:
        opened = open_systems(arguments, requests, running)
        if opened[0].failed:
            sys.exit(f"{REFERENCE}, which all are measured by, failed: {opened[0].failed}")
        measured = ceilings(arguments.threads)
        for each in opened:
            each.score(*requests[0])
        for number, request in enumerate(tqdm(requests * arguments.rounds, desc="Measuring")):
            turn = number % len(opened)
            for each in [*opened[turn:], *opened[:turn]]:
                if number < FEW or sum(each.seconds.values()) < SLOW * sum(opened[0].seconds.values()):
                    each.score(*request, number=number)
    ceiling = {one.quantity: round(one.rate, 1) for one in again(measured) if one.quantity in ("fp32", "int8")}
    bundle = Bundle.open(arguments.bundle)
    lengths = encoded_lengths(bundle, requests)
    rows = []
    for each in opened:
        native = each.system in NATIVE
        flops = sum(flops_of(bundle, request, native=native) for request in lengths) / len(lengths)
        rows.append(row(each, opened[0], pairs=arguments.candidates, gflop=flops / 1e9, ceiling=ceiling))
    result = {
        "model": bundle.manifest.source["id"],
        "threads": arguments.threads,
        "requests": len(requests) * arguments.rounds,
        "candidates": arguments.candidates,
        "ceiling_gflops": ceiling,
        "padding": padding(lengths),
        "systems": rows,
    }
    show(result)
    if arguments.out:
        write_result(arguments.out, result)
    if arguments.into:
        whole = json.loads(arguments.into.read_text())
        measured = {each["system"]: each for each in rows if each["system"] != REFERENCE}
        whole["systems"] = [measured.pop(each["system"], each) for each in whole["systems"]] + list(measured.values())
        with published_file(arguments.into) as file:
            file.write(json.dumps(whole, indent=1) + "\n")


def open_systems(
    arguments: argparse.Namespace, requests: list[tuple[str, list[str]]], running: contextlib.ExitStack
) -> list[Process]:
    """Start the systems one after the other, the reference first."""
    calibration = running.enter_context(tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".tsv"))  # noqa: SIM115, the stack's
    for query, text in [(query, text) for query, texts in requests for text in texts][::14][:300]:
        print(f"{query}\t{text}", file=calibration)
    calibration.flush()
    words = [str(arguments.checkpoint), str(arguments.bundle), str(arguments.threads), calibration.name]
    opened = []
    for system in tqdm(dict.fromkeys([REFERENCE, *arguments.systems]), desc="Opening"):
        folder = next((folder for name, folder in ENVIRONMENTS.items() if system.startswith(name)), None)
        python = arguments.environments / folder / "bin/python" if folder else Path(sys.executable)
        opened.append(Process(system, python, words))
        running.callback(opened[-1].close)
    return opened


def row(each: Process, reference: Process, *, pairs: int, gflop: float, ceiling: dict[str, float]) -> dict[str, Any]:
    """Return the figures of a system, or the reason why there are none."""
    facts: dict[str, Any] = {"system": each.system, "versions": each.versions}
    if each.failed or not each.seconds:
        return facts | {"failed": each.failed or "no request was answered"}
    numbers = sorted(each.seconds)
    seconds = np.array([each.seconds[number] for number in numbers])
    differences = np.concatenate([abs(each.scores[number] - reference.scores[number]) for number in numbers])
    differences = differences[~np.isnan(differences)]  # passages that a system did not return have NaN
    overlap = np.mean(
        [top_overlap(reference.scores[number], np.nan_to_num(each.scores[number], nan=-np.inf)) for number in numbers]
    )
    exact = each.system == EXACT_TOP or not any(word in each.system for word in ("BF16", "INT8", "int8", " O3"))
    facts |= {
        "max_abs_diff": float(differences.max()),
        "mean_abs_diff": float(differences.mean()),
        "top10_overlap": round(float(overlap), 3),
    }
    if differences.max() > EXACT if exact else overlap < RANKED:
        facts["other_scores"] = True
    ratios = np.array([reference.seconds[number] for number in numbers]) / seconds
    milliseconds = 1e3 * seconds
    facts |= {
        "requests": len(seconds),
        "pairs_per_s": round(1e3 * pairs / float(np.median(milliseconds)), 1),
        "ratio_median": round(float(np.median(ratios)), 2),
        "ratio_p5_p95": [round(float(value), 2) for value in np.percentile(ratios, [5, 95])],
        "ms_p50_p95_p99": [round(float(value), 1) for value in np.percentile(milliseconds, [50, 95, 99])],
    }
    # There is no ceiling for BF16, and none for an exact ranking, which computes in two precisions.
    if each.system.startswith("crossrt") and "BF16" not in each.system and each.system != EXACT_TOP:
        share = gflop / float(np.mean(seconds)) / ceiling["int8" if "INT8" in each.system else "fp32"]
        assert share < 1, f"{each.system} is at {share:.2f} of the ceiling {ceiling}: the benchmark is invalid"
        facts["of_ceiling"] = round(share, 2)
    return facts


def encoded_lengths(bundle: Bundle, requests: list[tuple[str, list[str]]]) -> list[np.ndarray[Any, Any]]:
    """Return each request's lengths in tokens."""
    encoder = bundle.pair_tokenizer()
    return [encoder.encode([(query, text) for text in texts]).lengths for query, texts in requests]


def padding(requests: list[np.ndarray[Any, Any]]) -> dict[str, float]:
    """Return the share of padding in the computed tokens, for the batch plan and for sorted batches of 32."""
    real = sum(int(lengths.sum()) for lengths in requests)
    made = [
        plan_batches(lengths, batch_size=32, streams=usable_cpus(), max_tokens=MAX_TOKENS, bucket_up_to=512)
        for lengths in requests
    ]
    ours = sum(len(part) * width for each in made for part, width in zip(each.row_groups, each.widths, strict=True))
    sorted32 = 0
    for lengths in requests:
        ordered = np.sort(lengths)[::-1]
        sorted32 += sum(len(part) * int(part[0]) for part in (ordered[i : i + 32] for i in range(0, len(ordered), 32)))
    return {"crossrt": round(1 - real / ours, 4), "sorted_batches_of_32": round(1 - real / sorted32, 4)}


def show(result: dict[str, Any]) -> None:
    """Print the table."""
    print(
        f"{result['model']}, {result['requests']} requests of 1 x {result['candidates']}, {result['threads']} threads"
    )
    print(f"ceiling {result['ceiling_gflops']} GFLOP/s, padding {result['padding']}")
    for each in result["systems"]:
        if "failed" in each:
            print(f"{each['system']:<46} failed: {each['failed']}")
            continue
        low, high = each["ratio_p5_p95"]
        print(
            f"{each['system']:<46}{each['pairs_per_s']:>8.1f}/s{each['ratio_median']:>6.2f} ({low:.2f} to {high:.2f})"
            f"  max {each['max_abs_diff']:.1e}  mean {each['mean_abs_diff']:.1e}  overlap {each['top10_overlap']:.3f}"
            f"  {each.get('of_ceiling', '')}{'  OTHER SCORES' if 'other_scores' in each else ''}"
        )


if __name__ == "__main__":
    main()
