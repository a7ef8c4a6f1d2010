"""`crossrt tune`: measure what is installed, and say what is fastest."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import numpy.typing as npt

from ..backends.registry import installed_backends
from ..bundle.bundle import Bundle
from ..precision import Precision
from ..text.encoded_pairs import EncodedPairs
from .cpu_scorer import CpuScorer
from .execution_config import CpuConfig
from .select_cpu import able_backends

ROUNDS = 5  # and one more to warm up
BATCH_SIZES = (8, 32)
JUDGED_DIFFERENCE = 0.25
"""Mean difference of two INT8 backends whose order was judged; one beyond it computes something else."""
MARGIN = 1.03
"""How much faster than the untuned config another must be, so that noise alone changes nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A config and its speed: `pairs_per_second`, and `ratio` to the first candidate, the median of interleaved rounds
    with the lowest and the highest; and how far its logits are from the first candidate's. `judged` tells that the export's
    gate has found both to keep the order, so that they may be as far apart as two roundings to 8 bits are."""

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
        """Whether the logits are the first candidate's, but for the rounding of its precision.

        A backend's fast path that computes something else is so left out, however fast it is.
        """
        if self.config.precision is Precision.FP32:
            return self.max_abs_diff <= 1e-4
        return self.mean_abs_diff <= (JUDGED_DIFFERENCE if self.judged else 0.05)


def tune(
    bundle: Bundle, config: CpuConfig, requests: Sequence[EncodedPairs], *, progress: Callable[[int], object]
) -> list[Candidate]:
    """Measure `config` and every other backend, number of streams and batch size on these requests.

    The first candidate is `config`. Each round runs all of them, one after the other, so that what else the machine does
    hits all alike. `progress` is told of each run. Raises what opening a session raises.
    """
    configs = candidates(bundle, config)
    seconds: list[list[float]] = [[] for _ in configs]
    logits = [np.empty(0, dtype=np.float32)] * len(configs)
    for number in range(ROUNDS + 1):
        for place, candidate in enumerate(configs):
            streams = CpuScorer(bundle, candidate)  # opened for the run alone: all of them together may not fit
            try:
                _run(streams, [replace(request, offsets=request.offsets[:11]) for request in requests])
                begin = time.perf_counter()
                logits[place] = _run(streams, requests)
                if number:
                    seconds[place].append(time.perf_counter() - begin)
            finally:
                streams.close()
            progress(1)
    pairs = sum(len(request) for request in requests)
    found = []
    model = bundle.manifest.models.get(config.precision.value)
    judged = {} if model is None else model.backends
    for candidate, times, scores in zip(configs, seconds, logits, strict=True):
        differences = np.abs(scores - logits[0])
        ratios = np.array(seconds[0]) / np.array(times)
        found.append(
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
    return found


def candidates(bundle: Bundle, config: CpuConfig) -> list[CpuConfig]:
    """Return `config`, then all that may be faster: each backend, as streams or as one wide batch at a time."""
    found = [config]
    installed = installed_backends(config.precision)
    for backend in (name for name in able_backends(bundle, config.precision) if name in installed):
        for streams in [config.threads] if backend == "native" else sorted({config.threads, 1}, reverse=True):
            for batch_size in BATCH_SIZES if streams > 1 else BATCH_SIZES[-1:]:
                other = replace(config, backend=backend, streams=streams, batch_size=batch_size)
                if other not in found:
                    found.append(other)
    return found


def fastest(found: Sequence[Candidate]) -> Candidate:
    """Return the fastest with the same scores; the first, unless another is faster beyond noise."""
    best = max((candidate for candidate in found if candidate.same_scores), key=lambda candidate: candidate.ratio)
    return best if best.ratio >= MARGIN and best.lowest > 1 else found[0]


def _run(streams: CpuScorer, requests: Sequence[EncodedPairs]) -> npt.NDArray[np.float32]:
    return np.concatenate([streams.submit(request, batch_size=max(BATCH_SIZES)).wait() for request in requests])
