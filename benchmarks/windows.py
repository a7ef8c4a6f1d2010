#!/usr/bin/env python3
"""Do windows find relevant text deep in a long passage? Measures ranking quality on long passages made of real ones.

    benchmarks/windows.py BUNDLE --queries Q.tsv --passages P.tsv --run R.trec --qrels Q.txt --out windows.json

Each candidate of a query becomes a long passage: it is put at a random place among `--others` passages that are candidates of
other queries. Its relevance stays the same. The unchanged candidates show what the model can achieve. The long passages, cut to
the model's length, show what truncation loses. With windows nothing is cut. For some lists, a plain loop also makes the windows
and sentence-transformers' model scores them; the two orders are compared.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from result import write_result
from tokenizers import Tokenizer

from crossrt import CrossEncoder, Windows
from crossrt.engine.files.trec import read_collection, read_qrels
from crossrt.evaluation.measures import Measures

AGGREGATIONS = ("max", "first", "mean:2", "mean", "sum")
TIES = 1e-4
"""Passages with scores closer than this may swap places between two runtimes."""


def main() -> None:
    """Measure, print, and write JSON when asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    for name in ("queries", "passages", "run", "qrels"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--others", type=int, default=7, help="passages around each candidate")
    parser.add_argument("--limit", type=int, help="queries to measure; all by default")
    parser.add_argument("--length", type=int, default=256, help="tokens of a window, the query included")
    parser.add_argument("--stride", type=int, default=128, help="tokens from one window to the next")
    parser.add_argument("--checkpoint", type=Path, help="the PyTorch checkpoint, to compare with sentence-transformers")
    parser.add_argument("--compare", type=int, default=2, help="lists to compare, in FP32")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    queries, passages, run = read_collection(arguments.queries, arguments.passages, arguments.run)
    qrels = read_qrels(arguments.qrels)
    names = list(run)[: arguments.limit]
    long = {name: long_passages(name, run, passages, arguments.others) for name in names}
    measures = Measures.parse("nDCG@10 RR@10")
    rows: dict[str, dict[str, Any]] = {}
    with CrossEncoder(arguments.bundle, precision=arguments.precision) as model:

        def measure(row: str, texts: dict[str, list[str]], windows: Windows | None) -> None:
            begin, values = time.perf_counter(), []
            cut = model.truncation
            for name in names:
                ids = list(run[name])
                found = model.rank(queries[name], texts[name], windows=windows)
                values.append(measures.of(qrels[name], [ids[each["corpus_id"]] for each in found]))
            seconds, lost = time.perf_counter() - begin, model.truncation.since(cut)
            means = dict(zip(measures.names, np.mean(values, axis=0).round(4).tolist(), strict=True))
            pairs = sum(map(len, texts.values()))
            rows[row] = {**means, "passages_per_s": round(pairs / seconds, 1), "cut": lost.cut, "tokens": lost.tokens}
            print(f"{row:<28}{rows[row]}", flush=True)

        measure("the passages as they are", {name: [passages[each] for each in run[name]] for name in names}, None)
        measure("long, cut", long, None)
        for aggregate in AGGREGATIONS:
            windows = Windows(length=arguments.length, stride=arguments.stride, aggregate=aggregate)
            measure(f"long, windows, {aggregate}", long, windows)
        result = {
            "model": model.bundle.manifest.source["id"],
            "precision": f"{model.precision.value} on {model.backend}",
            "queries": len(names),
            "mean_words": round(float(np.mean([len(text.split()) for texts in long.values() for text in texts])), 1),
            "windows": str(Windows(length=arguments.length, stride=arguments.stride)),
            "rows": rows,
        }
    if arguments.checkpoint is not None:
        lists = [(queries[name], long[name]) for name in names[: arguments.compare]]
        windows = Windows(length=arguments.length, stride=arguments.stride)
        result["beside sentence-transformers"] = compared(arguments.bundle, arguments.checkpoint, lists, windows)
        print(result["beside sentence-transformers"])
    if arguments.out is not None:
        write_result(arguments.out, result)


def long_passages(query: str, run: dict[str, dict[str, float]], passages: dict[str, str], others: int) -> list[str]:
    """Return the candidates of a query, each at a random place among passages of other queries."""
    chance = np.random.default_rng(int.from_bytes(query.encode()) % 2**32)
    pool = [
        passages[name] for other, names in run.items() if other != query for name in names if name not in run[query]
    ]
    made = []
    for name in run[query]:
        around = [pool[place] for place in chance.choice(len(pool), others, replace=False).tolist()]
        around.insert(int(chance.integers(others + 1)), passages[name])
        made.append(" ".join(around))
    return made


def compared(bundle: Path, checkpoint: Path, lists: list[tuple[str, list[str]]], windows: Windows) -> dict[str, Any]:
    """Compare the order and scores of these lists with those of sentence-transformers' model on the same windows."""
    import torch
    from sentence_transformers import CrossEncoder as Theirs

    theirs = Theirs(str(checkpoint), device="cpu")
    largest, same = 0.0, 0
    with CrossEncoder(bundle, precision="fp32") as ours, torch.inference_mode():
        tokenizer = Tokenizer.from_file(str(ours.bundle.tokenizer_file))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        for query, texts in lists:
            best = []
            for text in texts:
                rows = pieces(tokenizer, query, text, windows)
                batch = theirs.tokenizer.pad(rows, return_tensors="pt")
                best.append(float(theirs.model(**batch).logits[:, 0].max()))
            expected = np.array(best)
            found = ours.rank(query, texts, windows=windows, activation_fn="identity")
            order = np.array([each["corpus_id"] for each in found])
            largest = max(largest, float(np.abs(expected[order] - [each["score"] for each in found]).max()))
            same += bool((np.diff(expected[order]) <= TIES).all())
    return {"lists": len(lists), "same_order": same, "max_abs_difference": largest}


def pieces(tokenizer: Tokenizer, query: str, text: str, windows: Windows) -> list[dict[str, list[int]]]:
    """Return a passage's windows as a model's inputs, cut by a plain loop over its tokens.

    They are cut as tokens and not as texts, since a text that begins within a word has other tokens.
    """
    cls, sep = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    head = [cls, *tokenizer.encode(query, add_special_tokens=False).ids, sep]
    tokens = tokenizer.encode(text, add_special_tokens=False).ids
    room = windows.length - len(head) - 1
    found, start = [], 0
    while True:
        tail = [*tokens[start : start + room], sep]
        types = [0] * len(head) + [1] * len(tail)
        found.append({"input_ids": head + tail, "token_type_ids": types, "attention_mask": [1] * len(types)})
        if start + room >= len(tokens):
            return found
        start += min(windows.stride, room)


if __name__ == "__main__":
    main()
