#!/usr/bin/env python3
"""How many pairs per second does a bundle score, compared with plain PyTorch on the same pairs with as many threads?

    benchmarks/versus_pytorch.py CHECKPOINT BUNDLE --queries Q.tsv --passages P.tsv --run R.trec

Both go from raw text to scores. A request is one query with all its candidates. PyTorch sorts by length and scores batches of 32
through transformers, as sentence-transformers does. Runs are interleaved, request by request, after a warm-up that is not
counted. The output has the median and the 5th and 95th percentile of the requests' ratios.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from result import write_result

from crossrt import CrossEncoder
from crossrt.engine.files.trec import read_collection
from crossrt.export.checkpoint.checkpoint import Checkpoint
from crossrt.export.checkpoint.reference import Reference


def pytorch_scores(reference: Reference, pairs: list[tuple[str, str]], max_length: int) -> Any:
    """Score one request in sorted batches of 32."""
    order = sorted(range(len(pairs)), key=lambda row: -len(pairs[row][0]) - len(pairs[row][1]))
    scores = np.empty(len(pairs), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, len(order), 32):
            rows = order[start : start + 32]
            encoded = reference.tokenizer(
                [pairs[row][0] for row in rows],
                [pairs[row][1] for row in rows],
                padding=True,
                truncation="longest_first",
                max_length=max_length,
                return_tensors="pt",
            )
            logits = reference.model({name: encoded[name] for name in encoded if name in reference.model.input_names})
            scores[rows] = logits[:, -1].numpy()
    return scores


def main() -> None:
    """Measure, print, and write JSON when asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("bundle", type=Path)
    for name in ("queries", "passages", "run"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=43, help="queries to measure")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    queries, passages, run = read_collection(arguments.queries, arguments.passages, arguments.run)
    reference = Reference(Checkpoint.read(arguments.checkpoint))
    with CrossEncoder(arguments.bundle) as model:
        torch.set_num_threads(model.threads)
        seconds: dict[str, list[float]] = {"crossrt": [], "pytorch": []}
        differences, pairs_scored = [], 0
        for number, (query, candidates) in enumerate(list(run.items())[: arguments.requests + 1]):
            pairs = [(queries[query], passages[passage]) for passage in candidates]
            start = time.perf_counter()
            ours = model.logits(pairs)[:, -1]
            middle = time.perf_counter()
            theirs = pytorch_scores(reference, pairs, model.max_length)
            end = time.perf_counter()
            if number == 0:
                continue  # warm-up
            seconds["crossrt"].append(middle - start)
            seconds["pytorch"].append(end - middle)
            differences.append(float(np.abs(ours - theirs).max()))
            pairs_scored += len(pairs)
        ratios = np.array(seconds["pytorch"]) / np.array(seconds["crossrt"])
        per_request = pairs_scored / len(ratios)
        result = {
            "threads": model.threads,
            "bundle": model.bundle.manifest.source["id"],
            "precision": model.precision.value,
            "requests": len(ratios),
            "pairs": pairs_scored,
            "crossrt_pairs_per_s": round(per_request / float(np.median(seconds["crossrt"])), 1),
            "pytorch_pairs_per_s": round(per_request / float(np.median(seconds["pytorch"])), 1),
            "ratio_median": round(float(np.median(ratios)), 2),
            "ratio_p5_p95": [round(float(value), 2) for value in np.percentile(ratios, [5, 95])],
            "max_abs_logit_diff": max(differences),
        }
    low, high = result["ratio_p5_p95"]
    print(f"{pairs_scored} pairs in {len(ratios)} requests, {model.threads} threads")
    print(f"crossrt  {result['crossrt_pairs_per_s']:>8,.0f} pairs/s   max |logit difference| {max(differences):.1e}")
    print(f"PyTorch  {result['pytorch_pairs_per_s']:>8,.0f} pairs/s")
    print(f"ratio    {result['ratio_median']:>8.2f}           ({low:.2f} to {high:.2f} over the requests)")
    if arguments.out:
        write_result(arguments.out, result)


if __name__ == "__main__":
    main()
