"""What only a process of its own can tell: the time to its first score, and the memory it takes."""

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
options = json.loads(sys.argv[1])
with CrossEncoder(**options) as model:
    model.predict(("how tall is k2", "K2 is 8,611 m high."))
    print("scored", flush=True)
    requests = json.loads(sys.stdin.readline() or "[]")
    for pairs in requests:
        model.logits(map(tuple, pairs))
if requests:
    # Not ru_maxrss, which a child takes over from the process that started it.
    try:
        with open("/proc/self/status") as status:
            kilobytes = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource
        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)
    print(kilobytes * 1024 / 1e6, flush=True)
"""


def first_score_s(system: ModelConfig) -> float:
    """Return the seconds from the start of a process to its first score. Raises BackendError when it gives none."""
    return _run(system, [])[0]


def peak_mb(system: ModelConfig, requests: Sequence[Sequence[tuple[str, str]]]) -> float:
    """Return a process's largest resident size after these requests, in MB. Raises BackendError when it ends early."""
    return _run(system, requests)[1]


def _run(system: ModelConfig, requests: Sequence[Sequence[tuple[str, str]]]) -> tuple[float, float]:
    options: dict[str, Any] = {
        "model_name_or_path": str(system.bundle.path),
        "precision": system.precision.value,
        "backend": system.options.backend,
        "device": system.options.device,
        "threads": system.options.threads,
        "max_length": system.options.max_length,
        "trust_engines": system.options.trust_engines,
    }
    begin = time.perf_counter()
    with subprocess.Popen(
        python_command(PROGRAM, json.dumps(options)),
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
            f"{system.label} in a process of its own ended with status {child.returncode}: "
            f"{(errors.strip().splitlines() or ['no word'])[-1]}"
        )
    return seconds, float(said) if said else 0.0
