#!/usr/bin/env python3
"""crossrt on a GPU beside PyTorch: parity, throughput and latency with whatever is installed.

    benchmarks/gpu.py BUNDLE --queries Q.tsv --passages P.tsv --run R.trec --reference scores.npz
    benchmarks/gpu.py BUNDLE ... --checkpoint CHECKPOINT --write-reference scores.npz     on any machine with torch

Two environments can share one machine, such as TensorRT 8.6 with a Python of its own, so PyTorch's scores travel as a file.
With torch and `--checkpoint`, PyTorch FP16 through sentence-transformers (SDPA, sorted batches) runs in the same turns.
Every request goes to all systems, one after the other; a system that cannot run stays in the table with its reason.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from result import write_result

from crossrt import Bundle, CrossEncoder
from crossrt.engine.errors import CrossrtError
from crossrt.engine.trec import read_collection

Score = Callable[[str, Sequence[str]], Any]
PEER = "sentence-transformers FP16"
COUNTS = (1, 10, 100)


def main() -> None:
    """Measure, print, and write JSON when asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    for name in ("queries", "passages", "run"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, help="for PyTorch, where it is installed")
    parser.add_argument("--reference", type=Path, help="scores that PyTorch gave in FP32")
    parser.add_argument("--write-reference", type=Path, help="write them, and end")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--requests", type=int, default=43)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    queries, passages, run = read_collection(arguments.queries, arguments.passages, arguments.run)
    requests = [
        (queries[query], [passages[name] for name in list(candidates)[: COUNTS[-1]]])
        for query, candidates in list(run.items())[: arguments.requests]
    ]
    if arguments.write_reference:
        score = sentence_transformers(arguments.checkpoint, "cpu", "float32")
        np.savez(arguments.write_reference, *[score(*request) for request in requests])
        return
    expected = None
    if arguments.reference:
        stored = np.load(arguments.reference)
        expected = [stored[f"arr_{number}"] for number in range(len(requests))]
    systems, failed = opened(arguments)
    rows = [measured(name, score, requests, expected) for name, score in systems.items()]
    latencies = {count: in_turns(systems, requests, count, arguments.rounds) for count in COUNTS}
    for row in rows:
        row["ms_p50_p99"] = {str(count): latencies[count][row["system"]] for count in COUNTS}
    built = Bundle.open(arguments.bundle).manifest.engines
    result = {
        "device": device_facts(arguments.device),
        "bundle": str(arguments.bundle.name),
        "engines": [asdict(engine) for engine in built],
        "systems": rows + failed,
    }
    show(result)
    if arguments.out:
        write_result(arguments.out, result)


def opened(arguments: argparse.Namespace) -> tuple[dict[str, Score], list[dict[str, str]]]:
    """Open all systems; return those that run, and why others do not."""
    wanted: dict[str, Callable[[], Score]] = {}
    for backend in ("tensorrt", "onnxruntime"):
        for precision in ("fp32", "fp16", "int8"):
            wanted[f"crossrt {precision.upper()}, {backend}"] = lambda backend=backend, precision=precision: ours(  # type: ignore[misc]
                arguments.bundle, arguments.device, backend, precision
            )
    wanted["crossrt FP16, onnxruntime, plain graph"] = lambda: ours(
        without_fused_files(arguments.bundle), arguments.device, "onnxruntime", "fp16"
    )
    if arguments.checkpoint:
        wanted[PEER] = lambda: sentence_transformers(arguments.checkpoint, arguments.device, "float16")
        wanted["sentence-transformers FP16, torch.compile"] = lambda: sentence_transformers(
            arguments.checkpoint, arguments.device, "float16", compiled=True
        )
    systems: dict[str, Score] = {}
    failed = []
    for name, open_one in wanted.items():
        try:
            systems[name] = open_one()
            systems[name]("warm", ["one", "two"])
        except (CrossrtError, ImportError, RuntimeError, ValueError) as error:
            systems.pop(name, None)
            failed.append({"system": name, "failed": f"{type(error).__name__}: {error}"[:500]})
    return systems, failed


def ours(bundle: Path, device: str, backend: str, precision: str) -> Score:
    model = CrossEncoder(bundle, device=device, backend=backend, precision=precision, allow_failed=True)
    return lambda query, passages: model.logits([(query, passage) for passage in passages])[:, -1]


def without_fused_files(path: Path) -> Path:
    """Copy a bundle without what ONNX Runtime's fused operators are written in."""
    copy = Path(shutil.copytree(path, Path(tempfile.mkdtemp()) / "bundle"))
    manifest = Bundle.open(copy).manifest
    models = {name: replace(model, fused_file=None) for name, model in manifest.models.items()}
    (copy / "manifest.json").write_text(replace(manifest, models=models).to_json(), encoding="utf-8")
    return copy


def sentence_transformers(checkpoint: Path, device: str, dtype: str, *, compiled: bool = False) -> Score:
    import torch
    from sentence_transformers import CrossEncoder as Peer

    model = Peer(str(checkpoint), device=device, max_length=512, model_kwargs={"dtype": getattr(torch, dtype)})
    if compiled:
        model.model.forward = torch.compile(model.model.forward, dynamic=True)
    plain = torch.nn.Identity()
    return lambda query, passages: model.predict([(query, p) for p in passages], activation_fn=plain, batch_size=128)


def measured(name: str, score: Score, requests: list[tuple[str, list[str]]], expected: Any) -> dict[str, Any]:
    """Score all requests twice; return errors of the first and pairs per second of the second, one after the other."""
    found = [np.asarray(score(*request), dtype=np.float64).reshape(-1) for request in requests]
    begin = time.perf_counter()
    for request in requests:
        score(*request)
    seconds = time.perf_counter() - begin
    row: dict[str, Any] = {
        "system": name,
        "pairs_per_s": round(sum(len(texts) for _, texts in requests) / seconds, 1),
    }
    if expected is not None:
        differences = np.concatenate([abs(a - b) for a, b in zip(found, expected, strict=True)])
        row |= {"max_abs_diff": float(differences.max()), "mean_abs_diff": float(differences.mean())}
    return row


def in_turns(
    systems: dict[str, Score], requests: list[tuple[str, list[str]]], count: int, rounds: int
) -> dict[str, list[float]]:
    """Return each system's p50 and p99 in ms of one query with `count` passages; all systems take turns."""
    times: dict[str, list[float]] = {name: [] for name in systems}
    for turn in range(rounds + 1):
        for query, passages in requests:
            for name, score in systems.items():
                begin = time.perf_counter()
                score(query, passages[:count])
                if turn:  # the first one warms up: graphs, compilers
                    times[name].append(1e3 * (time.perf_counter() - begin))
    return {name: [round(float(value), 3) for value in np.percentile(found, [50, 99])] for name, found in times.items()}


def device_facts(device: str) -> dict[str, Any]:
    """Return what the driver says of the GPU."""
    import subprocess

    fields = "name,driver_version,memory.total,compute_cap"
    try:
        said = subprocess.run(
            ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"], capture_output=True, text=True, check=True
        ).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError) as error:
        return {"failed": str(error)}
    ordinal = int(device.partition(":")[2] or 0)
    return dict(zip(fields.split(","), said[ordinal].split(", "), strict=True))


def show(result: dict[str, Any]) -> None:
    print(result["device"])
    for engine in result["engines"]:
        print(f"{engine['file']:<44}built in {engine['build_seconds']:.0f} s, fused kernels: {engine['attention']}")
    for row in result["systems"]:
        if "failed" in row:
            print(f"{row['system']:<44}failed: {row['failed'].splitlines()[0]}")
            continue
        latency = "  ".join(f"1x{count} {p50:.2f}/{p99:.2f} ms" for count, (p50, p99) in row["ms_p50_p99"].items())
        errors = f"max {row['max_abs_diff']:.1e} mean {row['mean_abs_diff']:.1e}" if "max_abs_diff" in row else ""
        print(f"{row['system']:<44}{row['pairs_per_s']:>9,.0f}/s  {latency}  {errors}")


if __name__ == "__main__":
    main()
