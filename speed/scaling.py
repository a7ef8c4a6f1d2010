"""`curves_of` measures speed over the tokens of a batch, the length of a pair and the number of threads."""

import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ..engine.batching.batch import Batch
from ..engine.bundle.bundle import Bundle
from ..engine.errors import BackendError
from ..engine.hardware.cpus import usable_cpus
from ..engine.selection.execution_config import CpuConfig
from ..measurement.model_config import ModelConfig
from .fits import Floats, amdahl, polynomial, saturating
from .measure import Plan, opened
from .result.speeds import Curve, Spread
from .texts import Texts

TYPICAL = 96
"""Number of tokens of a pair on the axis of batch tokens."""
ROWS = (1, 2, 4, 8, 16, 32, 64)
LENGTHS = (16, 32, 64, 96, 128, 192, 256, 384, 512)
BATCH_TOKENS = 1536
"""Number of tokens in a batch on the axis of pair lengths."""
REPEATS = 5


def need_scipy() -> None:
    """Raise BackendError if scipy, which fits the curves, is not installed."""
    if importlib.util.find_spec("scipy") is None:
        raise BackendError('--scaling needs scipy: pip install "crossrt[report]"')


def curves_of(config: ModelConfig, texts: Texts, plan: Plan) -> list[Curve]:
    """Measure one row along three axes and fit a curve to each.

    Batches run on one thread, as in a stream. Requests run on each number of threads. On a GPU there are no curves.
    """
    execution = config.execution
    if not isinstance(execution, CpuConfig):
        return []
    manifest = config.bundle.manifest
    length = min(TYPICAL, manifest.max_positions)
    shapes = [(rows, length) for rows in ROWS]
    batches = _batch_speeds(config.bundle, execution, shapes)
    tokens = [float(rows * columns) for rows, columns in shapes]
    lengths = [length for length in LENGTHS if length <= manifest.max_positions]
    sequences = _batch_speeds(
        config.bundle, execution, [(max(1, BATCH_TOKENS // length), length) for length in lengths]
    )
    curves = [
        _curve(config, "tokens", tokens, batches, saturating),
        _curve(config, "sequence", [float(length) for length in lengths], sequences, polynomial),
    ]
    threads = sorted({*(2**power for power in range(10) if 2**power < usable_cpus()), usable_cpus()})
    by_threads = _request_speeds(config, execution, texts, plan, threads)
    curves.append(_curve(config, "threads", [float(number) for number in threads], by_threads, amdahl))
    return curves


def _curve(
    config: ModelConfig,
    axis: str,
    at: Sequence[float],
    speeds: Sequence[Spread],
    fit: Callable[[Floats, Floats], tuple[str, Floats]],
) -> Curve:
    words, fitted = fit(np.array(at), np.array([speed.median for speed in speeds]))
    return Curve(
        label=config.label, axis=axis, at=list(at), pairs_per_s=list(speeds), fit=words, fitted=fitted.tolist()
    )


def _batch_speeds(bundle: Bundle, execution: CpuConfig, shapes: Sequence[tuple[int, int]]) -> list[Spread]:
    """Return pairs per second for batches of these shapes (rows, tokens) on one thread. The shapes take turns."""
    manifest = bundle.manifest
    rng = np.random.default_rng(0)
    session = execution.open(bundle, threads=1, streams=1)
    speeds: list[list[float]] = [[] for _ in shapes]
    try:
        batches = [
            Batch(
                input_ids=rng.integers(1, int(manifest.architecture.get("vocab_size", 100)), shape),
                attention_mask=np.ones(shape, dtype=np.int64),
                token_type_ids=np.zeros(shape, dtype=np.int64),
                rows=np.arange(shape[0]),
            )
            for shape in shapes
        ]
        for repeat in range(REPEATS + 1):
            for place, batch in enumerate(batches):
                begin = time.perf_counter()
                session.run(batch)
                if repeat:
                    speeds[place].append(batch.shape[0] / (time.perf_counter() - begin))
    finally:
        session.close()
    return [Spread.of(found) for found in speeds]


def _request_speeds(
    config: ModelConfig, execution: CpuConfig, texts: Texts, plan: Plan, threads: Sequence[int]
) -> list[Spread]:
    """Return pairs per second from texts to scores on each number of threads. The numbers take turns."""
    short = replace(plan, lists=1, counts=(), starts=0, judged=0)
    rows = [
        opened(
            replace(
                config,
                execution=replace(execution, threads=number, streams=min(execution.streams, number)),
                options=replace(config.options, backend=execution.backend, threads=number),
            ),
            texts,
            short,
        )
        for number in threads
    ]
    speeds: list[list[float]] = [[] for _ in threads]
    try:
        for repeat in range(REPEATS + 1):
            for place, row in enumerate(rows):
                begin = time.perf_counter()
                row.model.logits(row.requests[0])
                if repeat:
                    speeds[place].append(row.pairs / (time.perf_counter() - begin))
    finally:
        for row in rows:
            row.model.close()
    return [Spread.of(found) for found in speeds]
