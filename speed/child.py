"""Measurements that need a fresh process: the time to the first score, and peak memory."""

import json
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from ..engine.errors import BackendError
from ..engine.process.child import python_command
from ..measurement.model_config import ModelConfig

PROGRAM = """
import json, sys
from crossrt import CrossEncoder
options, top_k = json.loads(sys.argv[1])
with CrossEncoder(**options) as model:
    model.predict(("how tall is k2", "K2 is 8,611 m high."))
    print("scored", flush=True)
    requests = json.loads(sys.stdin.readline() or "[]")
    for pairs in requests:
        if top_k is None:
            model.logits(map(tuple, pairs))
        else:
            model.rank(pairs[0][0], [passage for _, passage in pairs], top_k=top_k, exact=True)
if requests:
    # Not ru_maxrss, which a child inherits from its parent.
    try:
        with open("/proc/self/status") as status:
            kilobytes = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource
        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)
    print(kilobytes * 1024 / 1e6, flush=True)
"""


def first_score_s(config: ModelConfig) -> float:
    """Return the seconds from the start of a process to its first score. Raises BackendError if the process fails."""
    return _run(config, [])[0]


def peak_mb(config: ModelConfig, requests: Sequence[Sequence[tuple[str, str]]]) -> float:
    """Return the peak resident memory of a process after these requests, in MB. Raises BackendError if the process fails."""
    return _run(config, requests)[1]


def _run(config: ModelConfig, requests: Sequence[Sequence[tuple[str, str]]]) -> tuple[float, float]:
    options: dict[str, Any] = {
        "model_name_or_path": str(config.bundle.path),
        "precision": config.precision.value,
        "backend": config.options.backend,
        "device": config.options.device,
        "threads": config.options.threads,
        "max_length": config.options.max_length,
        "trust_engines": config.options.trust_engines,
    }
    begin = time.perf_counter()
    with subprocess.Popen(
        python_command(PROGRAM, json.dumps([options, config.top_k])),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout
        scored = child.stdout.readline()
        seconds = time.perf_counter() - begin
        said, errors = child.communicate(json.dumps(requests) + "\n" if scored else None)
    if child.returncode != 0 or not scored:
        raise BackendError(
            f"{config.label} in a process of its own ended with status {child.returncode}: "
            f"{(errors.strip().splitlines() or ['no word'])[-1]}"
        )
    return seconds, float(said) if said else 0.0
