#!/usr/bin/env python3
"""Do the memory and the scores of models that stay open remain the same?

    benchmarks/soak.py BUNDLE --out benchmarks/results/soak.json
    benchmarks/soak.py BUNDLE --quick                            # 200 requests of each, to try it

Each set-up runs in its own process: native kernels in FP32 and, if the bundle has it, in INT8, ONNX Runtime, OpenVINO, four
threads that share a model, passages from a store, and `AutoModelForSequenceClassification` with padded arrays. Requests are drawn
from a seeded pool with uneven lengths. A repeated request must get the same scores as the first time, within 1e-5, since batches
are split differently when threads compete. Growth is the largest resident memory in the last nine tenths of the requests,
relative to that after the first tenth, in which buffers still grow. The exit status is 1 for an error, a changed score, or more
growth than the limit.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import numpy as np
import tokenizers
from memory import WORDS, resident_mb
from result import write_result

from crossrt import AutoModelForSequenceClassification, Bundle, CrossEncoder, PassageStore
from crossrt.engine.errors import CrossrtError
from crossrt.engine.store.preparation import prepare

SETUPS = ("native", "int8", "onnxruntime", "openvino", "threads", "store", "auto_model")
POOL = 200
"""Number of different requests."""
ATOL = 1e-5
LIMIT = 0.10
"""Limit of growth. OpenVINO caches kernels for every shape that it meets, which adds 2 to 8 % over 20,000 requests."""
SIZES = 100
"""Number of memory readings."""

Scored = Callable[[int], Any]


def main() -> None:
    """Run every set-up, print, and write JSON when asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--requests", type=int, default=20_000, help="of each set-up")
    parser.add_argument("--setups", default=",".join(SETUPS), help="with commas")
    parser.add_argument("--words", type=int, default=16, help="words of the longest passage")
    parser.add_argument("--quick", action="store_true", help="200 requests of each set-up")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", choices=SETUPS, help=argparse.SUPPRESS)  # given to the process of a set-up
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.requests = 200
    if arguments.only:
        print(json.dumps(soaked(arguments.only, arguments.bundle, arguments.requests, arguments.words)))
        return
    rows: list[dict[str, Any]] = []
    source = Bundle.open(arguments.bundle).manifest.source["id"]
    shape = {"requests": arguments.requests, "pool": POOL, "words": arguments.words, "limit": LIMIT}
    for setup in arguments.setups.split(","):
        command = [sys.executable, __file__, str(arguments.bundle), "--only", setup]
        command += ["--requests", str(arguments.requests), "--words", str(arguments.words)]
        child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        row = json.loads(child.stdout) if child.returncode == 0 else {"errors": [f"exit status {child.returncode}"]}
        rows.append({"setup": setup} | row)
        print(said(rows[-1]), flush=True)
        if arguments.out:  # after each set-up, so that an interrupted run keeps its results
            write_result(arguments.out, {"model": source, **shape, "setups": rows})
    failed = [row for row in rows if row.get("errors") or row.get("other_scores") or row.get("growth", 0) > LIMIT]
    sys.exit(bool(failed))


def soaked(setup: str, bundle: Path, requests: int, words: int) -> dict[str, Any]:
    """Send the requests of one set-up. Return memory in MB over time, growth, errors and the number of changed scores."""
    chance = random.Random(0)
    pool = [
        (
            " ".join(chance.choices(WORDS, k=chance.randint(2, 8))),
            [" ".join(chance.choices(WORDS, k=chance.randint(1, words))) for _ in range(round(6 ** chance.random()))],
        )
        for _ in range(POOL)
    ]
    order = [chance.randrange(POOL) for _ in range(requests)]
    expected: dict[int, Any] = {}
    sizes: list[float] = []
    errors: list[str] = []
    changed = done = 0
    lock = Lock()

    def work(score: Scored, part: list[int]) -> None:
        nonlocal changed, done
        for number in part:
            try:
                scores = score(number)
            except Exception as error:  # any error is a finding
                errors.append(f"{type(error).__name__}: {error}")
                continue
            with lock:
                first = expected.setdefault(number, scores)
                changed += not np.allclose(scores, first, rtol=0, atol=ATOL)
                done += 1
                if done % max(1, requests // SIZES) == 0:
                    sizes.append(round(resident_mb(), 1))

    begin = time.perf_counter()
    try:
        with scorer(setup, bundle, pool) as score:
            workers = 4 if setup == "threads" else 1
            threads = [Thread(target=work, args=(score, order[place::workers])) for place in range(workers)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    except CrossrtError as error:  # a set-up that cannot run here stays in the table and is not a failure
        return {"skipped": str(error).splitlines()[0]}
    after = sizes[len(sizes) // 10 :]
    return {
        "requests": done,
        "seconds": round(time.perf_counter() - begin, 1),
        "resident_mb": sizes,
        "growth": round(max(after) / after[0] - 1, 4) if after else 0.0,  # without readings, `errors` has the reason
        "other_scores": changed,
        "errors": errors[:10],
    }


@contextmanager
def scorer(setup: str, bundle: Path, pool: list[tuple[str, list[str]]]) -> Iterator[Scored]:
    """Open a set-up. Yield a function that scores a request of the pool, given its number."""
    if setup == "auto_model":
        tokenizer = tokenizers.Tokenizer.from_file(str(bundle / "tokenizer.json"))
        tokenizer.enable_padding()
        tokenizer.enable_truncation(Bundle.open(bundle).manifest.max_length)
        model = AutoModelForSequenceClassification.from_pretrained(bundle, device="cpu")

        def of_arrays(number: int) -> Any:
            query, passages = pool[number]
            encoded = tokenizer.encode_batch([(query, passage) for passage in passages])
            ids, mask, types = (
                np.array([getattr(each, name) for each in encoded]) for name in ("ids", "attention_mask", "type_ids")
            )
            return model(input_ids=ids, attention_mask=mask, token_type_ids=types).logits

        yield of_arrays
        model.close()
        return
    backend = setup if setup in ("native", "onnxruntime", "openvino") else "auto"
    precision = "int8" if setup == "int8" else "fp32"
    with (
        tempfile.TemporaryDirectory() as folder,
        CrossEncoder(bundle, device="cpu", backend=backend, precision=precision) as model_,
    ):
        if setup != "store":
            yield lambda number: model_.predict([(pool[number][0], passage) for passage in pool[number][1]])
            return
        file = Path(folder) / "passages.tsv"
        lines = [f"{n}-{m}\t{text}" for n, (_, texts) in enumerate(pool) for m, text in enumerate(texts)]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        opened = model_.bundle
        prepare(
            file,
            Path(folder) / "store",
            tokenizers.Tokenizer.from_file(str(opened.tokenizer_file)),
            tokenizer_sha256=opened.tokenizer_sha256,
            limit=opened.manifest.max_positions,
        )
        store = PassageStore(Path(folder) / "store")

        def of_store(number: int) -> Any:
            query, passages = pool[number]
            return model_.logits_from(store, query, [f"{number}-{place}" for place in range(len(passages))])

        yield of_store


def said(row: dict[str, Any]) -> str:
    """Return a line about one set-up."""
    if not row.get("resident_mb"):
        return f"{row['setup']:<12} {row.get('skipped') or row['errors'][0]}"
    sizes = row["resident_mb"]
    return (
        f"{row['setup']:<12} {row['requests']:>7,} requests in {row['seconds']:>6.1f} s  {sizes[0]:>6.0f} MB at first, "
        f"{sizes[-1]:>6.0f} MB at last, {row['growth']:+.1%}; {len(row['errors'])} errors, {row['other_scores']} other scores"
    )


if __name__ == "__main__":
    main()
