"""`tune`: measures every way to run a bundle on this CPU, for `crossrt tune`."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import numpy.typing as npt

from ..backends.registry import installed_backends
from ..bundle.bundle import Bundle
from ..precision import Precision
from ..selection.execution_config import CpuConfig
from ..selection.select_cpu import able_backends
from ..text.encoded_pairs import EncodedPairs
from .cpu_scorer import CpuScorer

ROUNDS = 5
"""Measured rounds, after one that warms up."""
BATCH_SIZES = (8, 32)
JUDGED_DIFFERENCE = 0.25
"""Largest mean difference between the logits of two INT8 backends that passed the ranking check. A larger difference means that
one of them does not compute the same model."""
MARGIN = 1.03
"""Speed-up over the untuned config that another must reach to be chosen, so that noise does not change the choice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A measured config, compared with the first candidate, which is the untuned config.

    `ratio` is the speed-up over the first candidate: the median over interleaved rounds; `lowest` and `highest` are its range.
    `max_abs_diff` and `mean_abs_diff` compare the logits of both candidates. `judged` is true if both backends passed the
    ranking check of the export. Then their logits may differ as much as two roundings to 8 bits do.
    """

    config: CpuConfig
    pairs_per_second: float
    ratio: float
    lowest: float
    highest: float
    max_abs_diff: float
    mean_abs_diff: float
    judged: bool = False

    @property
    def same_scores(self) -> bool:
        """Whether the logits equal the first candidate's up to the rounding of the precision.

        This excludes a backend whose fast path computes something else.
        """
        if self.config.precision is Precision.FP32:
            return self.max_abs_diff <= 1e-4
        return self.mean_abs_diff <= (JUDGED_DIFFERENCE if self.judged else 0.05)


def tune(
    bundle: Bundle, config: CpuConfig, requests: Sequence[EncodedPairs], *, progress: Callable[[int], object]
) -> list[Candidate]:
    """Measure `config` and every other backend, number of streams and batch size on these requests.

    The first candidate is `config`. Each round runs all candidates one after the other, so that other load on the machine affects
    all of them equally. `progress(1)` is called after each run. Raises what opening a session raises.
    """
    configs = candidates(bundle, config)
    seconds: list[list[float]] = [[] for _ in configs]
    logits = [np.empty(0, dtype=np.float32)] * len(configs)
    for number in range(ROUNDS + 1):
        for place, candidate in enumerate(configs):
            scorer = CpuScorer(bundle, candidate)  # one at a time: all of them together may not fit into memory
            try:
                _run(scorer, [replace(request, offsets=request.offsets[:11]) for request in requests])
                begin = time.perf_counter()
                logits[place] = _run(scorer, requests)
                if number:
                    seconds[place].append(time.perf_counter() - begin)
            finally:
                scorer.close()
            progress(1)
    pairs = sum(len(request) for request in requests)
    measured = []
    model = bundle.manifest.models.get(config.precision.value)
    # INT8 only: its check compares rankings, and that of BF16 does not always.
    judged = model.backends if model is not None and config.precision is Precision.INT8 else {}
    for candidate, times, scores in zip(configs, seconds, logits, strict=True):
        differences = np.abs(scores - logits[0])
        ratios = np.array(seconds[0]) / np.array(times)
        measured.append(
            Candidate(
                config=candidate,
                pairs_per_second=pairs / median(times),
                ratio=float(np.median(ratios)),
                lowest=float(ratios.min()),
                highest=float(ratios.max()),
                max_abs_diff=float(differences.max()),
                mean_abs_diff=float(differences.mean()),
                judged=judged.get(config.backend, False) and judged.get(candidate.backend, False),
            )
        )
    return measured


def candidates(bundle: Bundle, config: CpuConfig) -> list[CpuConfig]:
    """Return `config`, then the configs that may be faster: each backend, with a stream per thread or a single stream."""
    configs = [config]
    installed = installed_backends(config.precision)
    for backend in (name for name in able_backends(bundle, config.precision) if name in installed):
        for streams in [config.threads] if backend == "native" else sorted({config.threads, 1}, reverse=True):
            for batch_size in BATCH_SIZES if streams > 1 else BATCH_SIZES[-1:]:
                other = replace(config, backend=backend, streams=streams, batch_size=batch_size)
                if other not in configs:
                    configs.append(other)
    return configs


def fastest(measured: Sequence[Candidate]) -> Candidate:
    """Return the fastest candidate with the same scores, or the first candidate if none is faster beyond noise."""
    best = max((candidate for candidate in measured if candidate.same_scores), key=lambda candidate: candidate.ratio)
    return best if best.ratio >= MARGIN and best.lowest > 1 else measured[0]


def _run(scorer: CpuScorer, requests: Sequence[EncodedPairs]) -> npt.NDArray[np.float32]:
    return np.concatenate([scorer.submit(request, batch_size=max(BATCH_SIZES)).wait() for request in requests])
