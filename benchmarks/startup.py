#!/usr/bin/env python3
"""How long does a process take from its start to its first score, and what would shorten that?

    benchmarks/startup.py BUNDLE --out benchmarks/results/startup.json

Times whole processes in turn, from the start to the first printed score. It also measures two alternatives: OpenVINO without
crossrt's cache of compiled models, and ONNX Runtime with a saved optimized graph.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from result import write_result

from crossrt.engine.process.child import python_command

AS_IT_IS = """
import sys
from crossrt import CrossEncoder
bundle, backend = sys.argv[1], sys.argv[2]
print(CrossEncoder(bundle, backend=backend).predict(("how tall is k2", "K2 is 8,611 m high.")), flush=True)
"""
IN_INT8 = AS_IT_IS.replace("backend=backend", "backend=backend, precision='int8'")
COMPILING = """
from crossrt.engine.bundle.compiled import CompiledModels
CompiledModels.load = lambda self, key: None
CompiledModels.store = lambda self, key, content: None
"""
OPTIMIZED = """
import os, sys
import onnxruntime
whole = onnxruntime.InferenceSession
def session(path, options, **others):
    saved = sys.argv[3] + "/optimized." + sys.argv[4]
    if os.path.exists(saved):
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return whole(saved, options, **others)
    options.optimized_model_filepath = saved
    return whole(path, options, **others)
onnxruntime.InferenceSession = session
"""
SYSTEMS = {
    "ONNX Runtime": (AS_IT_IS, "onnxruntime", ""),
    "ONNX Runtime, optimized graph as ONNX": (OPTIMIZED + AS_IT_IS, "onnxruntime", "onnx"),
    "ONNX Runtime, optimized graph as ORT": (OPTIMIZED + AS_IT_IS, "onnxruntime", "ort"),
    "OpenVINO": (AS_IT_IS, "openvino", ""),
    "native kernels": (AS_IT_IS, "native", ""),
    "native kernels, INT8": (IN_INT8, "native", ""),
    "OpenVINO, compiled every time": (COMPILING + AS_IT_IS, "openvino", ""),
}
LIMIT = 0.6  # s


def main() -> None:
    """Measure, print, and write JSON when asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in SYSTEMS}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(arguments.repeats + 1):
            for name, (program, backend, kind) in SYSTEMS.items():
                seconds = first_score(program, str(arguments.bundle), backend, folder, kind)
                if repeat:  # the first run fills the file cache and the caches of the systems
                    times[name].append(seconds)
    rows = {
        name: {
            "median_s": round(float(np.median(values)), 3),
            "p5_p95_s": [round(float(value), 3) for value in np.percentile(values, [5, 95])],
        }
        for name, values in times.items()
    }
    for name, row in rows.items():
        print(f"  {name:<40} {row['median_s']:.3f} s   {row['p5_p95_s']}")
    if arguments.out:
        write_result(arguments.out, {"first_score": rows, "limit_s": LIMIT})
    sys.exit(float(np.median(times["ONNX Runtime"])) > LIMIT)


def first_score(program: str, *words: str) -> float:
    """Return the seconds from the start of a process to its first line of output."""
    begin = time.perf_counter()
    with subprocess.Popen(python_command(program, *words), stdout=subprocess.PIPE) as child:
        assert child.stdout
        line = child.stdout.readline()
        seconds = time.perf_counter() - begin
    assert line, f"no score: status {child.returncode}"
    return seconds


if __name__ == "__main__":
    main()
