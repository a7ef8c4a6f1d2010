#!/usr/bin/env python3
"""How fast are the native kernels for each kind of processor, compared with other runtimes that use the same instructions?

    benchmarks/processors.py BUNDLE --checkpoint DIR --queries Q.tsv --passages P.tsv --run R.trec --out RESULT.json

The other runtimes are OpenVINO, ONNX Runtime and PyTorch. A processor can also run the code for less capable kinds than its own.
Each system runs in its own process, which is limited to one kind: crossrt by loading the kernels of that kind, the others by
hiding the further instructions from them (`instruction_limits.py`). A request is one query with its candidates. All systems score
a request before the next one, in an order that is reversed each time. Errors are differences from crossrt's own FP32 scores with
the best kind. Peers that are not installed are left out.

`gmacs_per_second` counts every multiply-add of the model, including those of the last layer that crossrt skips.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
from instruction_limits import SEEN, hides, limits
from result import write_result

from crossrt.calibration.ranking import top_overlap
from crossrt.engine.bundle.bundle import Bundle
from crossrt.engine.bundle.native_weights import NativeModel
from crossrt.engine.files.trec import read_collection
from crossrt.engine.hardware.cpus import instructions, tiles_permitted
from crossrt.engine.kernels.instruction_sets import PROCESSOR_KINDS
from crossrt.engine.kernels.support import only_kinds
from crossrt.engine.precision import Precision


def main() -> None:
    """Measure in turns, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="with fp32 and int8, judged in every backend")
    parser.add_argument("--checkpoint", type=Path, help="measure sentence-transformers with PyTorch too")
    for name in ("queries", "passages", "run"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--requests", type=int, default=12)
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kinds", nargs="+", choices=SEEN, default=list(SEEN), help="kinds of processors to measure")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no request after so many seconds")
    parser.add_argument("--random-weights", action="store_true", help="report no ranking: the weights are not trained")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(json.loads(arguments.worker))
        return
    queries, passages, run = read_collection(arguments.queries, arguments.passages, arguments.run)
    step = max(1, len(run) // arguments.requests)
    requests = [
        (queries[query], [passages[one] for one in [*run[query]][: arguments.candidates]])
        for query in [*run][::step][: arguments.requests]
    ]
    end = perf_counter() + arguments.seconds
    systems = systems_of(arguments)
    times = np.zeros((len(systems), len(requests)))
    scores: list[list[npt.NDArray[Any]]] = [[] for _ in systems]
    work_of = multiply_adds(arguments.bundle, requests)
    with TemporaryDirectory() as folder:
        workers = [Worker(system, arguments, Path(folder)) for system in systems]
        for number, request in enumerate(requests):
            if number and perf_counter() > end:
                break
            order = range(len(workers)) if number % 2 else reversed(range(len(workers)))
            for each in order:
                answer, times[each, number] = workers[each].score(request)
                scores[each].append(answer)
            done = number + 1
            result = table(systems, times[:, :done], scores, requests[:done], work_of[:done], arguments)
            if arguments.out:  # after each request, so that a run that is ended early leaves what it has measured
                write_result(arguments.out, result)
        for worker in workers:
            worker.close()
    for row in result["rows"]:
        print(json.dumps(row))


def systems_of(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the systems that can be measured here: the backend, its precision, and the kind that it is limited to."""
    present = instructions()
    bundle = Bundle.open(arguments.bundle)
    systems: list[dict[str, Any]] = []
    for kind in PROCESSOR_KINDS:
        if kind.name not in arguments.kinds:
            continue
        for precision in ("fp32", "int8", "bf16"):
            if precision not in bundle.manifest.models or precision not in kind.precisions:
                continue
            if kind.lacking(precision, present) or ("amx_tile" in kind.instructions and not tiles_permitted()):
                continue
            backends = ["native"]
            if is_installed("openvino"):
                backends.append("openvino")
            # Where CPUID cannot hide instructions, ONNX Runtime uses all that the processor has, which is the same for each kind.
            seen_before = any((each["backend"], each["precision"]) == ("onnxruntime", precision) for each in systems)
            if is_installed("onnxruntime") and precision != "bf16" and (hides() or not seen_before):
                backends.append("onnxruntime")
            if arguments.checkpoint and is_installed("sentence_transformers") and precision == "fp32":
                backends.append("pytorch")
            systems += [{"backend": backend, "precision": precision, "kind": kind.name} for backend in backends]
    return systems


def is_installed(package: str) -> bool:
    """Tell whether a peer is installed."""
    return find_spec(package) is not None


def work(order: Mapping[str, Any]) -> None:
    """Open one system and score the requests from standard input, one JSON value per line."""
    threads = order["threads"]
    if order["backend"] == "pytorch":
        import torch
        from sentence_transformers import CrossEncoder as Reference

        torch.set_num_threads(threads)
        reference = Reference(order["checkpoint"], device="cpu", max_length=512)

        def score(pairs: Sequence[tuple[str, str]]) -> Any:
            return reference.predict(pairs, activation_fn=torch.nn.Identity(), batch_size=32)

    else:
        from crossrt import CrossEncoder

        with only_kinds(order["kind"]):
            model = CrossEncoder(
                order["bundle"],
                precision=order["precision"],
                backend=order["backend"],
                device="cpu",
                threads=threads,
                allow_failed=True,
            )

        def score(pairs: Sequence[tuple[str, str]]) -> Any:
            return model.logits(pairs)[:, -1]

    for line in sys.stdin:
        query, passages = json.loads(line)
        begin = perf_counter()
        logits = score([(query, passage) for passage in passages])
        taken = perf_counter() - begin
        print(json.dumps([[float(logit) for logit in logits], taken]), flush=True)


class Worker:
    """A system in its own process."""

    def __init__(self, system: Mapping[str, Any], arguments: argparse.Namespace, folder: Path) -> None:
        seen: Mapping[str, str] = {}
        if system["backend"] != "native":
            cache = folder / system["kind"]  # OpenVINO compiles models for the instructions that it sees
            seen = {**limits(system["kind"], folder), "XDG_CACHE_HOME": str(cache)}
        order = {**system, "bundle": str(arguments.bundle), "threads": arguments.threads}
        order["checkpoint"] = str(arguments.checkpoint)
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(arguments.bundle), "--worker", json.dumps(order)],
            env={**os.environ, **seen, "OMP_NUM_THREADS": str(arguments.threads)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.score(("which is warm?", ["a passage that is scored before any time is taken"] * 8))

    def score(self, request: tuple[str, Sequence[str]]) -> tuple[npt.NDArray[Any], float]:
        """Return the logits of a request, and the seconds that it took."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        logits, taken = json.loads(self._process.stdout.readline())
        return np.array(logits), taken

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def table(
    systems: Sequence[Mapping[str, Any]],
    times: npt.NDArray[Any],
    scores: Sequence[Sequence[npt.NDArray[Any]]],
    requests: Sequence[tuple[str, Sequence[str]]],
    multiply_adds: npt.NDArray[Any],
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """Return a row for each system: its speed, ratios to other systems for the same requests, and its error."""
    own = {(system["backend"], system["precision"], system["kind"]): number for number, system in enumerate(systems)}
    exact = scores[own["native", "fp32", next(kind for _, _, kind in own)]]
    pairs = np.array([len(passages) for _, passages in requests])
    rows = []
    for number, system in enumerate(systems):
        peers = ("openvino", "onnxruntime", "pytorch")
        beside = {peer: own.get((peer, system["precision"], system["kind"])) for peer in peers}
        beside["own_fp32"] = own.get((system["backend"], "fp32", system["kind"]))
        ratios = {
            name: [float(np.quantile(times[other] / times[number], at)) for at in (0.5, 0.1, 0.9)]
            for name, other in beside.items()
            if other is not None
        }
        errors = np.concatenate(scores[number]) - np.concatenate(exact)
        row = {
            **system,
            "pairs_per_second": float(np.median(pairs / times[number])),
            "gmacs_per_second": float(np.median(multiply_adds / times[number]) / 1e9),
            "times_as_fast_as": ratios,
            "mean_error": float(np.abs(errors).mean()),
            "largest_error": float(np.abs(errors).max()),
        }
        if not arguments.random_weights:
            lists = zip(exact, scores[number], strict=True)
            row["top10_overlap"] = float(np.mean([top_overlap(reference, one) for reference, one in lists]))
        rows.append(row)
    return {
        "model": str(Bundle.open(arguments.bundle).manifest.source["id"]),
        "trained": not arguments.random_weights,
        "requests": len(requests),
        "pairs": int(pairs.sum()),
        "threads": arguments.threads,
        "limited_by": "CPUID" if hides() else "settings",
        "rows": rows,
    }


def multiply_adds(path: Path, requests: Sequence[tuple[str, Sequence[str]]]) -> npt.NDArray[np.float64]:
    """Return the multiply-adds of each request, in all linear layers and in attention, without padding."""
    bundle = Bundle.open(path)
    dims = NativeModel.open(bundle.native_file(Precision.FP32)).dims
    tokenizer = bundle.pair_tokenizer()
    counts = []
    for query, passages in requests:
        encoded = tokenizer.encode([(query, passage) for passage in passages])
        lengths = np.diff(encoded.offsets).astype(np.float64)
        linear = 4 * dims.hidden**2 + 2 * dims.hidden * dims.intermediate
        counts.append(dims.layers * (lengths * linear + 2 * lengths**2 * dims.hidden).sum())
    return np.array(counts)


if __name__ == "__main__":
    main()
