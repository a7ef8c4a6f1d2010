#!/usr/bin/env python3
"""How much slower are the native kernels on a processor with AVX512 but without AVX512-BF16?

    benchmarks/instructions.py BUNDLE --queries Q.tsv --passages P.tsv --run R.trec --out benchmarks/results/instructions.json

Runs the library for such processors and the one for AVX512-BF16 on a processor that has it, beside the other backends, which
use all instructions. A request is one query with its candidates; all systems score it before the next.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
from result import write_result

from crossrt import CrossEncoder
from crossrt.engine.backends import native_cpu as native
from crossrt.engine.files.trec import read_collection
from crossrt.engine.kernels.library import native_library

LIBRARIES = {"with AVX512-BF16": "native_avx512_bf16", "without": "native_avx512"}
PRECISIONS = ("int8", "fp32")


def main() -> None:
    """Measure in turns, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="with int8 and native weights")
    for name in ("queries", "passages", "run"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--max-length", type=int)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    queries, passages, run = read_collection(arguments.queries, arguments.passages, arguments.run)
    requests = [[(queries[query], passages[one]) for one in candidates] for query, candidates in run.items()]
    systems = {(precision, system): score for precision in PRECISIONS for system, score in opened(precision, arguments)}
    times: dict[tuple[str, str], list[float]] = {key: [] for key in systems}
    logits: dict[tuple[str, str], list[npt.NDArray[np.float32]]] = {key: [] for key in systems}
    for score in systems.values():
        for request in requests[:2]:
            score(request)
    for request in requests:
        for key, score in systems.items():
            begin = perf_counter()
            logits[key].append(score(request))
            times[key].append(perf_counter() - begin)
    exact = np.concatenate(logits["fp32", "with AVX512-BF16"])
    rows = []
    for (precision, system), taken in times.items():
        ratios = np.divide(times[precision, "with AVX512-BF16"], taken)
        differences = np.abs(np.concatenate(logits[precision, system]) - exact)
        row: dict[str, Any] = {
            "precision": precision,
            "system": system,
            "pairs_per_second": float(np.median([len(request) for request in requests] / np.array(taken))),
            "speed": [float(np.quantile(ratios, at)) for at in (0.5, 0.05, 0.95)],
            "mean_difference": float(differences.mean()),
            "largest_difference": float(differences.max()),
        }
        rows.append(row)
        print(*row.values())
    if arguments.out:
        write_result(arguments.out, {"requests": len(requests), "rows": rows})


def opened(precision: str, arguments: argparse.Namespace) -> list[tuple[str, Callable[[Any], npt.NDArray[np.float32]]]]:
    """Open the native kernels by each of their libraries, and the other backends."""
    options = {"precision": precision, "device": "cpu", "max_length": arguments.max_length, "allow_failed": True}
    systems: list[tuple[str, Callable[[Any], npt.NDArray[np.float32]]]] = []
    for system, name in LIBRARIES.items():
        native.kernel_library.cache_clear()
        with patch.object(native, "native_kernels", lambda name=name: native_library(name)):
            library = native.kernel_library()
        model = CrossEncoder(arguments.bundle, backend="native", **options)

        def score(request: Any, model: CrossEncoder = model, library: Any = library) -> npt.NDArray[np.float32]:
            with patch.object(native, "kernel_library", lambda: library):
                return model.logits(request)

        systems.append((system, score))
    for backend in ("openvino", "onnxruntime"):
        systems.append((backend, CrossEncoder(arguments.bundle, backend=backend, **options).logits))
    return systems


if __name__ == "__main__":
    main()
