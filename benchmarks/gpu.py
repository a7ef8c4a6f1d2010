#!/usr/bin/env python3
"""How fast and how exact is crossrt on a GPU, compared with PyTorch? Measures with whatever is installed.

    benchmarks/gpu.py BUNDLE... --queries Q.tsv --passages P.tsv --run R.trec --out gpu.json
    benchmarks/gpu.py BUNDLE --checkpoint CHECKPOINT ... --write-reference scores.npz     on any machine with torch

Missing engines are built first, in a copy of each bundle. Then the systems take turns; in its turn a system scores all requests.
With torch and `--checkpoint`, PyTorch FP16 through sentence-transformers (SDPA, sorted batches) takes turns with them.

Scores are compared with PyTorch's FP32 scores from `--reference`. That is a file, since the Python of TensorRT 8.6 has no torch.
Without it, they are compared with the bundle's own FP32 model on the CPU, which has passed parity with PyTorch. The comparison
runs before the timed requests, and again after them, when CUDA graphs are in use.

Failures stay in the result with their reasons, and the result is written after every step. The exit status is 0 when no bundle
failed, at least one system ran, and all that ran are within the tolerance of their precision. Otherwise it is 1.
"""

import argparse
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from gpu_shapes import shape_costs
from gpu_systems import System, opened, said, sentence_transformers
from result import write_result

with suppress(ImportError, OSError):
    import torch  # first: it loads CUDA and cuDNN, which an ONNX Runtime in another folder would not find

from crossrt import Bundle, CrossEncoder, PassageStore
from crossrt.calibration.ranking import top_overlap
from crossrt.engine.backends.gpu_executor import GpuExecutor
from crossrt.engine.backends.registry import backend_version
from crossrt.engine.files.trec import read_collection
from crossrt.engine.hardware.gpus import gpus
from crossrt.engine.precision import Precision
from crossrt.engine.process.child import crossrt_command
from crossrt.engine.store.preparation import prepare
from crossrt.export.precision.tolerance import TOLERANCE
from crossrt.measurement.environment import versions
from crossrt.speed.operations import flops_of

COUNTS = (1, 10, 100)
PACKAGES = ("tensorrt-rtx", "onnxruntime-gpu", "cuda-bindings", "pycuda", "torch", "sentence-transformers")
MATMUL = 8192
"""Rows and columns of the matrices whose products measure the device's peak."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A query with its passages and their ids."""

    query: str
    names: list[str]
    passages: list[str]

    def pairs(self, count: int | None = None) -> list[tuple[str, str]]:
        return [(self.query, passage) for passage in self.passages[:count]]


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, write JSON; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
    for name in ("queries", "passages", "run"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument(
        "--checkpoint", type=Path, nargs="+", default=[], help="for PyTorch: of each bundle, in their order"
    )
    parser.add_argument(
        "--reference", type=Path, nargs="+", default=[], help="scores of PyTorch, in the bundles' order"
    )
    parser.add_argument("--write-reference", type=Path, help="write the first checkpoint's scores, and end")
    parser.add_argument("--max-length", type=int, help="of all systems and engines; each model's own unless given")
    parser.add_argument(
        "--precisions", default="fp32,fp16,int8", help="of engines and systems, those that a bundle has"
    )
    parser.add_argument(
        "--parity-requests", type=int, help="of a bundle without a --reference, compare so many; all unless given"
    )
    parser.add_argument(
        "--engine-options", default="", help='more words for `crossrt engines`: ="--optimization-level 2"'
    )
    parser.add_argument("--engine-seconds", type=float, default=300, help="the most that building one engine may take")
    parser.add_argument("--no-compile", action="store_true", help="leave PyTorch with torch.compile out")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--requests", type=int, default=43)
    parser.add_argument("--rounds", type=int, default=5, help="passes that count, after those that warm up")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args(words)
    queries, passages, run = read_collection(arguments.queries, arguments.passages, arguments.run)
    requests = [
        Request(query=queries[query], names=names, passages=[passages[name] for name in names])
        for query, candidates in list(run.items())[: arguments.requests]
        for names in [list(candidates)[: COUNTS[-1]]]
    ]
    if arguments.write_reference:
        length = length_of(Bundle.open(arguments.bundles[0]), arguments)
        peer = sentence_transformers(arguments.checkpoint[0], "cpu", "float32", length)
        scores = [peer(request.pairs()) for request in requests]
        np.savez(arguments.write_reference, *scores, max_length=length)
        return 0
    found: list[dict[str, Any]] = []
    result = {
        "device": device_facts(arguments.device),
        "versions": versions(*PACKAGES) | {"tensorrt": backend_version("tensorrt")},
        "matmul_tflops": matmul_rates(arguments.device),
        "bundles": found,
    }

    def keep() -> None:
        if arguments.out:
            write_result(arguments.out, result)

    print(result["device"], result["versions"], f"matrix products, TFLOP/s: {result['matmul_tflops']}", sep="\n")
    for number, path in enumerate(arguments.bundles):
        row: dict[str, Any] = {"bundle": path.name}
        found.append(row)
        keep()
        with tempfile.TemporaryDirectory() as folder:
            try:
                measure(path, number, requests, arguments, row, Path(folder), result["matmul_tflops"], keep)
            except Exception as error:  # the other bundles are measured nevertheless
                row["failed"] = said(error)
        keep()
        show(row)
    rows = [system for row in found for system in row.get("systems", ())]
    ran = [system for system in rows if "failed" not in system]
    wrong = [system for system in ran if not system.get("passed", True)]
    print(
        f"{len(ran)} of {len(rows)} systems ran, {len(wrong)} with other scores than allowed or with nothing to compare them"
    )
    return int(not ran or bool(wrong) or any("failed" in row for row in found))


def measure(
    path: Path,
    number: int,
    requests: list[Request],
    arguments: argparse.Namespace,
    row: dict[str, Any],
    folder: Path,
    rates: dict[str, Any],
    keep: Callable[[], None],
) -> None:
    """Fill in the row of a bundle, step by step."""
    copy = Path(shutil.copytree(path, folder / path.name))
    length = length_of(Bundle.open(copy), arguments)
    row["max_length"] = length
    row["builds"] = builds = []
    brought = {engine.precision for engine in Bundle.open(copy).manifest.engines}
    for precision in arguments.precisions.split(","):
        if precision in Bundle.open(copy).manifest.models and precision not in brought:
            builds.append(built(copy, precision, arguments))
            keep()
    bundle = Bundle.open(copy)
    row["engines"] = [asdict(engine) for engine in bundle.manifest.engines]
    expected: list[Any] | None = None
    try:
        stored = number < len(arguments.reference)
        judged = requests if stored else requests[: arguments.parity_requests]
        expected, row["reference"] = reference(bundle, judged, arguments, number, length)
    except Exception as error:  # speed is measured even without a reference
        row["reference"] = f"failed: {said(error)}"
    systems, row["systems"] = opened(copy, folder, number, arguments, length)
    keep()
    rows = {each["system"]: each for each in row["systems"]}
    for name, system in list(systems.items()):
        try:
            rows[name] |= compared(system, requests, expected, bundle.manifest.relevant_label or 0)
        except Exception as error:
            rows[name]["failed"] = said(error)
            del systems[name]
        keep()
    vocabulary = tokenizers.Tokenizer.from_file(str(bundle.tokenizer_file)).get_vocab_size()
    for name, system in systems.items():
        if system.model is not None:
            try:
                with system.executor() as executor:
                    rows[name]["padding"] = padding(executor, system.model, requests)
                    labels = bundle.manifest.labels
                    rows[name]["shapes"] = shape_costs(executor, vocabulary=vocabulary, labels=labels)
            except Exception as error:
                rows[name]["shapes"] = said(error)
            keep()
    store = prepared(bundle, requests, folder)
    pairs = [pair for request in requests for pair in request.pairs()]
    encoded = bundle.pair_tokenizer(max_length=length).encode(pairs)
    flops = flops_of(bundle, encoded.lengths)

    def works_of(system: System) -> dict[str, list[Callable[[], Any]]]:
        works: dict[str, list[Callable[[], Any]]] = {
            f"1 x {count}": [lambda r=request, n=count: system.score(r.pairs(n)) for request in requests]  # type: ignore[misc]
            for count in COUNTS
        }
        works["all"] = [lambda: system.score(pairs)]
        model = system.model
        if model is not None:
            works["all, model alone"] = [lambda: model.submit(encoded, batch_size=32).wait()]
            works["1 x 100, prepared"] = [
                lambda r=request: model.logits_from(store, r.query, r.names)  # type: ignore[misc]
                for request in requests
            ]
        return works

    works = {name: works_of(system) for name, system in systems.items()}
    for work in dict.fromkeys(work for each in works.values() for work in each):
        callables = {name: each[work] for name, each in works.items() if work in each and "failed" not in rows[name]}
        warm = {name: systems[name].warm for name in callables}
        for name, times in in_turns(callables, arguments.rounds, warm).items():
            if isinstance(times, str):
                rows[name]["failed"] = f"in {work}: {times}"
                continue
            p50, p99 = (float(value) for value in np.percentile(times, [50, 99]))
            rows[name].setdefault("ms_p50_p99", {})[work] = [round(p50, 3), round(p99, 3)]
            if work.startswith("all"):
                rate = len(pairs) / p50 * 1e3
                rows[name].setdefault("pairs_per_s", {})[work] = round(rate, 1)
                if work != "all":
                    rows[name]["model_tflops"] = tflops = round(flops / p50 / 1e9, 1)
                    # The peak is measured in half precision, so FP32 is not compared with it.
                    if "failed" not in rates and systems[name].precision is not Precision.FP32:
                        rows[name]["of_matmul"] = round(tflops / max(rates.values()), 3)
        keep()
    for name, system in systems.items():  # compare again: CUDA graphs have replaced the launches by now
        try:
            again = compared(system, requests, expected, bundle.manifest.relevant_label or 0)
        except Exception as error:
            again = {"failed": f"compared again: {said(error)}"}
        if "failed" in again or again.get("passed") is False:
            rows[name] |= again
        elif "max_abs_diff" in again:
            rows[name]["max_abs_diff_again"] = again["max_abs_diff"]
        keep()
    for system in systems.values():
        if system.model is not None:
            with suppress(Exception):  # a lost device has been reported above
                system.model.close()


def length_of(bundle: Bundle, arguments: argparse.Namespace) -> int:
    """Return the number of tokens of the longest pair, for all systems."""
    return min(bundle.manifest.max_length, arguments.max_length or bundle.manifest.max_length)


def built(bundle: Path, precision: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Build an engine into the bundle. A child process does it, since the build may crash or take too long."""
    words = ["--precision", precision, "--device", arguments.device]
    if arguments.max_length:
        words += ["--max-length", str(min(arguments.max_length, Bundle.open(bundle).manifest.max_positions))]
    words += shlex.split(arguments.engine_options)
    print(shlex.join(["crossrt", "engines", str(bundle), *words]), flush=True)
    row: dict[str, Any] = {"precision": precision, "options": shlex.join(words[2:])}
    begin = time.perf_counter()
    try:
        done = subprocess.run(
            crossrt_command("engines", str(bundle), *words),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=arguments.engine_seconds,
        )
        last = "\n".join(done.stdout.splitlines()[-12:])
        row["failed" if done.returncode else "said"] = last or f"exit status {done.returncode}"
    except subprocess.TimeoutExpired:
        row["failed"] = (
            f"not done after {arguments.engine_seconds:.0f} s: give --engine-seconds, or a lower optimization level"
        )
    print(row.get("failed") or row["said"], flush=True)
    return row | {"seconds": round(time.perf_counter() - begin, 1)}


def padding(executor: GpuExecutor, model: CrossEncoder, requests: list[Request]) -> dict[str, Any]:
    """Return the padding by shape buckets, and the numbers of batches and shapes, for single requests and for all in one."""
    layout = executor.layout
    found: dict[str, Any] = {}
    for name, lists in (
        ("1 x 10", [request.pairs(10) for request in requests]),
        ("1 x 100", [request.pairs() for request in requests]),
        ("all", [[pair for request in requests for pair in request.pairs()]]),
    ):
        real, shapes = 0, []
        for pairs in lists:
            lengths = model.encode(pairs).lengths
            real += int(lengths.sum())
            for rows in layout.split(lengths, batch_cost=executor.batch_cost):
                shapes.append(layout.shape(lengths[rows]))
        computed = sum(map(layout.tokens, shapes))
        found[name] = {"padding": round(1 - real / computed, 4), "batches": len(shapes), "shapes": len(set(shapes))}
    return found


def reference(
    bundle: Bundle, requests: list[Request], arguments: argparse.Namespace, number: int, length: int
) -> tuple[list[Any], str]:
    """Return the reference scores, and their source."""
    if number < len(arguments.reference):
        stored = np.load(arguments.reference[number])
        if int(stored["max_length"]) != length:
            raise ValueError(
                f"{arguments.reference[number]} was written with max_length={stored['max_length']}, and this run has "
                f"{length}: write it again with --write-reference --max-length {length}"
            )
        return [
            stored[f"arr_{place}"] for place in range(len(requests))
        ], f"PyTorch FP32, {arguments.reference[number].name}"
    with CrossEncoder(bundle.path, device="cpu", backend="onnxruntime", precision="fp32", max_length=length) as model:
        return [model.logits(request.pairs()) for request in requests], "the bundle's FP32 by ONNX Runtime on the CPU"


def compared(system: System, requests: list[Request], expected: list[Any] | None, label: int) -> dict[str, Any]:
    """Score the requests that have expected logits. Return how much the logits of the relevant label differ from those."""
    judged = {"passed": None} if system.model is not None else {}  # the scores of peers are not judged
    if expected is None:
        return {"precision": system.precision.value, **judged}

    def relevant(scores: Any) -> Any:
        logits = np.asarray(scores, dtype=np.float64)
        return logits.reshape(len(logits), -1)[:, label if logits.ndim == 2 and logits.shape[1] > 1 else 0]

    lists = [
        (relevant(system.score(request.pairs())), relevant(scores))
        for request, scores in zip(requests, expected, strict=False)
    ]
    differences = np.concatenate([abs(found - wanted) for found, wanted in lists])
    overlap = float(np.mean([top_overlap(wanted, found) for found, wanted in lists]))
    limits = TOLERANCE[system.precision]
    row = {
        "precision": system.precision.value,
        "max_abs_diff": float(differences.max()),
        "mean_abs_diff": float(differences.mean()),
        "top10_overlap": round(overlap, 4),
    }
    if judged:
        row |= {
            "allowed": limits.max_abs,
            "least_overlap": limits.top10_overlap,
            "passed": bool(differences.max() <= limits.max_abs and overlap >= limits.top10_overlap),
        }
    return row


def prepared(bundle: Bundle, requests: list[Request], folder: Path) -> PassageStore:
    """Prepare the passages of all requests."""
    passages = {name: text for request in requests for name, text in zip(request.names, request.passages, strict=True)}
    file = folder / "passages.tsv"
    file.write_text("".join(f"{name}\t{text}\n" for name, text in sorted(passages.items())), encoding="utf-8")
    return prepare(
        file,
        folder / "store",
        tokenizers.Tokenizer.from_file(str(bundle.tokenizer_file)),
        tokenizer_sha256=bundle.tokenizer_sha256,
        limit=bundle.manifest.max_positions,
        truncation_side=bundle.manifest.truncation_side,
    )


def in_turns(
    works: dict[str, list[Callable[[], Any]]], rounds: int, warm: dict[str, int]
) -> dict[str, list[float] | str]:
    """Return each system's times in milliseconds, one for each piece of work and round, or the reason why it failed.

    In its turn a system computes all its pieces, as a server does. Between two pieces no other system can then evict its code and
    weights from the caches.
    """
    times: dict[str, list[float] | str] = {name: [] for name in works}
    for turn in range(-max(warm.values(), default=0), rounds):
        for name, pieces in works.items():
            if turn < -warm[name]:
                continue
            for piece in pieces:
                kept = times[name]
                if isinstance(kept, str):
                    break
                begin = time.perf_counter()
                try:
                    piece()
                except Exception as error:
                    times[name] = said(error)
                    break
                if turn >= 0:
                    kept.append(1e3 * (time.perf_counter() - begin))
    return times


def matmul_rates(device: str) -> dict[str, Any]:
    """Return the TFLOP/s of torch's dense matrix products in half precision. The model's rate is compared with this peak."""
    try:
        found = {}
        for kind in ("float16", "bfloat16"):
            left, right = (torch.randn(MATMUL, MATMUL, device=device).to(getattr(torch, kind)) for _ in range(2))
            seconds = []
            for _ in range(13):
                torch.cuda.synchronize(device)
                begin = time.perf_counter()
                torch.mm(left, right)
                torch.cuda.synchronize(device)
                seconds.append(time.perf_counter() - begin)
            found[kind] = round(2 * MATMUL**3 / float(np.median(seconds[3:])) / 1e12, 1)
        return found
    except Exception as error:  # NameError where torch is not installed
        return {"failed": said(error)}


def device_facts(device: str) -> dict[str, Any]:
    """Return what the driver and nvidia-smi report about the GPU."""
    present, ordinal = gpus(), int(device.partition(":")[2] or 0)
    if ordinal >= len(present):
        return {"failed": f"no NVIDIA driver with a {device} was found here"}
    facts = asdict(present[ordinal])
    fields = "driver_version,memory.total"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        return facts | dict(zip(fields.split(","), listed[ordinal].split(", "), strict=True))
    except (OSError, subprocess.CalledProcessError, IndexError, ValueError) as error:
        return facts | {"nvidia-smi": said(error)}


def show(row: dict[str, Any]) -> None:
    """Print the table of a bundle."""
    print(f"\n{row['bundle']}, max_length {row.get('max_length')}, parity with {row.get('reference')}")
    if "failed" in row:
        print(f"  failed: {row['failed']}")
    for engine in row.get("engines", ()):
        print(f"  {engine['file']}: built in {engine['build_seconds']:.0f} s, fused kernels: {engine['attention']}")
    for system in row.get("systems", ()):
        if "failed" in system:
            print("  {:<42}failed: {}".format(system["system"], system["failed"].replace("\n", "\n      ")))
            continue
        rates = ", ".join(f"{work} {rate:,.0f}/s" for work, rate in system.get("pairs_per_s", {}).items())
        times = ", ".join(
            f"{work} {p50:.2f} ({p99:.2f})"
            for work, (p50, p99) in system.get("ms_p50_p99", {}).items()
            if work[:3] != "all"
        )
        share = f", {system['of_matmul']:.0%} of dense" if "of_matmul" in system else ""
        print(f"  {system['system']:<42}{rates}{share}; ms p50 (p99): {times}; ", end="")
        parity = (
            {True: "passed", False: "FAILED", None: "not compared"}[system["passed"]] if "passed" in system else "peer"
        )
        errors = f", max {system['max_abs_diff']:.1e}" if "max_abs_diff" in system else ""
        print(f"{parity}{errors}, top-10 overlap {system.get('top10_overlap')}")


if __name__ == "__main__":
    sys.exit(main())
