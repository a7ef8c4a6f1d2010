#!/usr/bin/env python3
"""How long does `import crossrt` take, compared with an empty interpreter and with sentence-transformers?

    benchmarks/import_time.py --out benchmarks/results/import_time.json

Times whole processes, run in turn. The limit is 0.3 s more than an empty interpreter; above it the exit status is 1.
"""

import argparse
import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from result import write_result

from crossrt.engine.process.child import python_command

LIMIT = 0.3  # s


def main() -> None:
    """Measure, print, and write JSON when asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    statements = {"nothing": "pass", "crossrt": "import crossrt", "CrossEncoder": "from crossrt import CrossEncoder"}
    if importlib.util.find_spec("sentence_transformers"):
        statements["sentence_transformers"] = "from sentence_transformers import CrossEncoder"
    times: dict[str, list[float]] = {name: [] for name in statements}
    for repeat in range(arguments.repeats + 1):
        for name, statement in statements.items():
            if name == "sentence_transformers" and repeat > 3:
                continue  # each import takes seconds
            start = time.perf_counter()
            subprocess.run(python_command(statement), check=True, capture_output=True)
            if repeat:  # the first run fills the file cache
                times[name].append(time.perf_counter() - start)
    empty = float(np.median(times["nothing"]))
    rows = {
        name: {
            "median_s": round(float(np.median(values)) - empty, 3),
            "min_s": round(min(values) - empty, 3),
            "max_s": round(max(values) - empty, 3),
        }
        for name, values in times.items()
        if name != "nothing"
    }
    print(f"over an empty interpreter, which takes {empty:.3f} s:")
    for name, row in rows.items():
        print(f"  {name:<22} {row['median_s']:.3f} s   ({row['min_s']:.3f} to {row['max_s']:.3f})")
    if arguments.out:
        write_result(arguments.out, {"empty_interpreter_s": round(empty, 3), "imports": rows, "limit_s": LIMIT})
    sys.exit(rows["crossrt"]["median_s"] > LIMIT)


if __name__ == "__main__":
    main()
