#!/usr/bin/env python3
"""Does the memory of an open model stop growing?

    benchmarks/memory.py BUNDLE --backend openvino --out benchmarks/results/memory.json

Sends requests of random shapes: 1 to 32 pairs, small numbers more often, of 3 to 250 words each, and reads the resident
memory between them. The exit status is 1 when it grows by more than 5 % over the last nine tenths of the requests. The first
tenth is left out, since buffers grow until every size has occurred.
"""

import argparse
import random
import sys
from pathlib import Path

from result import write_result
from tqdm import tqdm

from crossrt import CrossEncoder

WORDS = "the cat sat on a mat while seven large grey geese crossed under bridges in new york city during winter".split()
LIMIT = 0.05


def main() -> None:
    """Measure, print, and write JSON when asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--pairs", type=int, default=32, help="pairs of the largest request")
    parser.add_argument("--words", type=int, default=250, help="words of the longest passage")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    chance = random.Random(0)
    sizes = []
    with CrossEncoder(arguments.bundle, backend=arguments.backend, precision=arguments.precision) as model:
        for number in tqdm(range(arguments.requests)):
            passages = [
                " ".join(chance.choices(WORDS, k=chance.randint(3, arguments.words)))
                for _ in range(round(arguments.pairs ** chance.random()))
            ]
            model.predict([("how large is the cat", passage) for passage in passages])
            if number % (arguments.requests // 100) == 0:
                sizes.append(resident_mb())
        sizes.append(resident_mb())
        name, precision = model.bundle.manifest.source["id"], model.precision.value
    after = sizes[len(sizes) // 10 :]
    growth = max(after) / after[0] - 1
    print(f"{name}, {precision}, {arguments.backend}: {sizes[0]:.0f} MB at first, {after[0]:.0f} MB after a tenth of")
    print(f"{arguments.requests} requests, at most {max(after):.0f} MB later: {growth:+.1%}, of {LIMIT:.0%} allowed")
    if arguments.out:
        result = {
            "model": name,
            "backend": arguments.backend,
            "precision": precision,
            "requests": arguments.requests,
            "pairs": arguments.pairs,
        }
        write_result(arguments.out, result | {"resident_mb": [round(size) for size in sizes], "growth": growth})
    sys.exit(growth > LIMIT)


def resident_mb() -> float:
    """Return this process's resident memory in MB."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) / 1e3 for line in status.splitlines() if line.startswith("VmRSS"))


if __name__ == "__main__":
    main()
