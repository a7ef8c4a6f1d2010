#!/usr/bin/env python3
"""How often an exact ranking from a cheaper precision is FP32's, and how fast it is.

    benchmarks/exact_top_k.py BUNDLE --queries Q.tsv --passages P.tsv --run R.trec [--quick] --out exact_top_k.json

Quality: the candidates of each query, and for some queries further passages of the collection, are scored in both
precisions once. Thousands of lists are then drawn from them, of several lengths, and the best k of each are found as
`rank(..., exact=True)` finds them. A list fails when its k best, or their order, are not FP32's.

Speed: `rank` of the same lists in FP32, in the cheaper precision, and exactly, interleaved request by request after a warm-up
that is not counted. Ratios are of the same request, as median with the 5th and 95th percentile.
"""

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from result import write_result

from crossrt import CrossEncoder
from crossrt.engine.bundle.score_error import ScoreError
from crossrt.engine.files.trec import read_collection
from crossrt.engine.runtime.top_k import exact_top_k

Floats = npt.NDArray[np.float32]
LENGTHS = (10, 20, 50, 100, 200, 500, 1000)
KS = (1, 3, 5, 10, 20, 50, 100)
NEAR = 1e-3
"""Scores closer than this at the k-th place make a near tie."""


def main() -> None:
    """Measure, print, and write JSON when asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    for name in ("queries", "passages", "run"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--long", type=int, default=12, help="queries that are scored with 1,000 passages")
    parser.add_argument("--draws", type=int, default=20, help="lists drawn of each query and length")
    parser.add_argument("--requests", type=int, default=40, help="lists of 100 that are timed")
    parser.add_argument("--long-requests", type=int, default=6, help="lists of 1,000 that are timed")
    parser.add_argument("--quick", action="store_true", help="a glance: fewer of everything")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.long, arguments.draws, arguments.requests, arguments.long_requests = 1, 2, 4, 1
    lists = lists_of(arguments.queries, arguments.passages, arguments.run, arguments.long)
    options: dict[str, Any] = {"device": "cpu", "backend": arguments.backend}
    with (
        CrossEncoder(arguments.bundle, precision="fp32", **options) as precise,
        CrossEncoder(arguments.bundle, precision=arguments.precision, **options) as cheap,
    ):
        error = cheap.bundle.manifest.models[arguments.precision].score_errors[cheap.backend]
        if arguments.quick:
            lists = lists[:6]
        scored = [
            [model.logits([(query, text) for text in texts])[:, 0] for model in (precise, cheap)]
            for query, texts in lists
        ]
        rows = quality(scored, error, arguments.draws)
        times = {
            "1 x 100": timed(precise, cheap, [each for each in lists if len(each[1]) <= 100][: arguments.requests]),
            "1 x 1,000": timed(
                precise, cheap, [each for each in lists if len(each[1]) > 100][: arguments.long_requests]
            ),
        }
        result = {
            "model": cheap.bundle.manifest.source["id"],
            "run": arguments.run.name,
            "precision": f"{arguments.precision} on {cheap.backend}",
            "error": asdict(error),
            "quality": rows,
            "speed, k = 10": times,
        }
    for row in rows:
        print(
            f"list {row['length']:>5,}  k {row['k']:>3}  {row['lists']:>5,} lists ({row['near_ties']} near ties)  "
            f"other set {row['other_set']:>3}  other order {row['other_order']:>3}  scored again {row['rescored']:6.1f}, at most "
            f"{row['rescored_most']:>4}  rounds {row['rounds']:.2f}   {arguments.precision} alone: other set "
            f"{row['plain_other_set']}, other order {row['plain_other_order']}"
        )
    for name, row in times.items():
        print(name, row)
    if arguments.out is not None:
        write_result(arguments.out, result)


def lists_of(queries: Path, passages: Path, run: Path, long: int) -> list[tuple[str, list[str]]]:
    """Return the query and the candidates of each list of the run; the first `long` queries have 1,000 passages more."""
    query_texts, passage_texts, candidates = read_collection(queries, passages, run)
    everything = list(passage_texts.values())
    chance = np.random.default_rng(0)
    lists = []
    for number, (query, scores) in enumerate(candidates.items()):
        own = [passage_texts[name] for name in scores]
        lists.append((query_texts[query], own))
        if number < long:
            others = [everything[row] for row in chance.permutation(len(everything))[:1000].tolist()]
            lists.append((query_texts[query], list(dict.fromkeys([*own, *others]))[:1000]))
    return lists


def quality(scored: list[list[Floats]], error: ScoreError, draws: int) -> list[dict[str, Any]]:
    """Draw lists of each length, and count those whose k best are not those of the precise scores."""
    chance = np.random.default_rng(1)
    rows = []
    for length in LENGTHS:
        for k in (k for k in KS if k <= length):
            row: dict[str, Any] = {"length": length, "k": k}
            counts = dict.fromkeys(
                ("lists", "near_ties", "other_set", "other_order", "plain_other_set", "plain_other_order"), 0
            )
            rescored, rounds = [], []
            for precise, cheap in (each for each in scored if len(each[0]) >= length):
                for _ in range(1 if length == len(precise) else draws):
                    drawn = chance.permutation(len(precise))[:length]
                    ours, theirs = precise[drawn], cheap[drawn]
                    best = np.argsort(-ours, kind="stable")
                    found = exact_top_k(theirs, k, lambda rows, ours=ours: ours[rows], error)  # type: ignore[misc]
                    plain = np.argsort(-theirs, kind="stable")[:k]
                    counts["lists"] += 1
                    counts["near_ties"] += bool(k < length and ours[best[k - 1]] - ours[best[k]] < NEAR)
                    counts["other_set"] += set(found.rows.tolist()) != set(best[:k].tolist())
                    counts["other_order"] += found.rows.tolist() != best[:k].tolist()
                    counts["plain_other_set"] += set(plain.tolist()) != set(best[:k].tolist())
                    counts["plain_other_order"] += plain.tolist() != best[:k].tolist()
                    rescored.append(found.rescored)
                    rounds.append(found.rounds)
            if counts["lists"]:
                means = {"rescored": round(float(np.mean(rescored)), 1), "rounds": round(float(np.mean(rounds)), 2)}
                rows.append(row | counts | means | {"rescored_most": max(rescored)})
    return rows


def timed(
    precise: CrossEncoder, cheap: CrossEncoder, lists: list[tuple[str, list[str]]], k: int = 10
) -> dict[str, Any]:
    """Time `rank` of each list in FP32, in the cheaper precision, and exactly; and count equal results."""
    ways: dict[str, Any] = {
        "fp32": lambda query, texts: precise.rank(query, texts, top_k=k),
        "cheap": lambda query, texts: cheap.rank(query, texts, top_k=k, exact=False),
        "exact": lambda query, texts: cheap.rank(query, texts, top_k=k, exact=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    equal = 0
    for number, (query, texts) in enumerate([*lists[:1], *lists]):
        found = {}
        order = list(ways)
        for name in order if number % 2 else reversed(order):
            begin = time.perf_counter()
            found[name] = ways[name](query, texts)
            if number:
                seconds[name].append(time.perf_counter() - begin)
        if number:
            equal += [each["corpus_id"] for each in found["exact"]] == [each["corpus_id"] for each in found["fp32"]]
    ratios = {f"exact over {name}": np.array(seconds[name]) / np.array(seconds["exact"]) for name in ("fp32", "cheap")}
    return {
        "lists": len(lists),
        "equal to fp32": equal,
        "ms": {name: round(1e3 * float(np.median(values)), 1) for name, values in seconds.items()},
        **{
            name: [round(float(value), 3) for value in (np.median(each), *np.percentile(each, (5, 95)))]
            for name, each in ratios.items()
        },
    }


if __name__ == "__main__":
    main()
