"""Rows measured in turns: throughput, latency, and how far the scores are from FP32's."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..calibration.judging_set import QUERIES
from ..calibration.ranking import top_overlap
from ..engine.cross_encoder import CrossEncoder
from ..engine.errors import BackendError
from ..engine.runtime.execution_config import CpuConfig
from ..engine.text.encoded_pairs import EncodedPairs
from ..engine.text.tokenizer import read_tokenizer
from ..measurement.model_config import ModelConfig
from .ceiling import Probe
from .operations import flops_of, padding_of
from .result import Difference, Latency, Speed, Spread
from .texts import Pairs, Texts

LIST = 100
"""Passages of a request of which throughput is counted."""
TOP = 10
SAMPLE = 500
"""Logits that are kept of each row, for a picture."""
LATENCY_SECONDS = 3.0
"""Of requests of one size, for each row; the repeats are the least, and a hundred the most."""
MOST_REQUESTS = 100

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured: `lists` requests of `list_length` pairs in each of `repeats`, then one query with each of `counts`
    passages, and `starts` processes for start-up. What is 0, empty or False is not measured. `alone` is the model's speed
    without tokenization."""

    repeats: int = 5
    lists: int = 2
    list_length: int = LIST
    counts: Sequence[int] = (1, 10, 100, 1000)
    starts: int = 5
    memory: bool = True
    alone: bool = True
    least_requests: int = 3
    latency_s: float = LATENCY_SECONDS


@dataclass(slots=True, kw_only=True)
class Row:
    """An opened model and its times, in seconds."""

    system: ModelConfig
    model: CrossEncoder
    requests: list[Pairs]
    tokens: list[EncodedPairs]
    by_count: dict[int, list[Pairs]]
    warm_up_s: float = 0.0
    end_to_end: list[list[float]] = field(default_factory=list)
    """Of each repeat, each request's."""
    alone: list[list[float]] = field(default_factory=list)
    latencies: dict[int, list[float]] = field(default_factory=dict)
    logits: list[Floats] = field(default_factory=list)

    @property
    def pairs(self) -> int:
        """Pairs of one repeat."""
        return sum(map(len, self.requests))

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Their tokens, int64 [pairs]."""
        return np.concatenate([tokens.lengths for tokens in self.tokens])


def opened(system: ModelConfig, texts: Texts, plan: Plan) -> Row:
    """Open a system with its requests. Raises what `CrossEncoder` raises."""
    tokenizer = read_tokenizer(system.bundle.tokenizer_file)
    encoder = system.bundle.pair_tokenizer(max_length=system.options.max_length)
    requests = [texts.request(number, plan.list_length, tokenizer) for number in range(plan.lists)]
    by_count = {
        count: [texts.request(number, count, tokenizer) for number in range(_requests_of(count, plan))]
        for count in plan.counts
    }
    return Row(
        system=system,
        model=system.open(),
        requests=requests,
        tokens=[encoder.encode(pairs) for pairs in requests],
        by_count=by_count,
    )


def _requests_of(count: int, plan: Plan) -> int:
    """Different requests of one size: many small ones, since their lengths differ more than their sums do."""
    return max(plan.lists, min(MOST_REQUESTS, 1000 // count))


def warm_up(row: Row) -> None:
    """Run a request of every size once; the time is kept apart.

    Larger ones than those of which throughput is counted have batches of the same shapes, and take as long as all others.
    """
    begin = time.perf_counter()
    small = (requests[0] for count, requests in row.by_count.items() if count <= LIST)
    for pairs in (*row.requests, *small):
        row.model.logits(pairs)
    row.warm_up_s = time.perf_counter() - begin


def measure(rows: Sequence[Row], plan: Plan, probe: Probe, *, progress: Callable[[], object]) -> None:
    """Time all rows that have been warmed up, one after the other in turns, and keep the times in them.

    Between any two turns `probe` runs. `progress` is told of each repeat and each count.
    """
    for repeat in range(plan.repeats):
        for row in rows:
            row.end_to_end.append([])
            row.alone.append([])
        for number in range(plan.lists):
            probe.run()
            for row in _turned(rows, repeat + number):
                seconds, logits = timed(lambda row=row: row.model.logits(row.requests[number]))  # type: ignore[misc] # noqa: B023
                row.end_to_end[-1].append(seconds)
                if repeat == 0:
                    row.logits.append(logits)
                if plan.alone:
                    row.alone[-1].append(timed(lambda row=row: _alone(row, row.tokens[number]))[0])  # type: ignore[misc] # noqa: B023
        progress()
    for count in plan.counts:
        _latencies(rows, count, plan, probe)
        progress()


def _latencies(rows: Sequence[Row], count: int, plan: Plan, probe: Probe) -> None:
    """One query with so many passages, until each row has had its time, but never fewer than a few requests."""
    taken = 0.0
    number = 0
    while number < MOST_REQUESTS and (number < plan.least_requests or taken < plan.latency_s * len(rows)):
        if number % 10 == 0:
            probe.run()
        for row in _turned(rows, number):
            pairs = row.by_count[count][number % len(row.by_count[count])]
            seconds, _ = timed(lambda row=row, pairs=pairs: row.model.logits(pairs))  # type: ignore[misc]
            row.latencies.setdefault(count, []).append(seconds)
            taken += seconds
        number += 1


def _turned(rows: Sequence[Row], by: int) -> list[Row]:
    turn = by % len(rows)
    return [*rows[turn:], *rows[:turn]]


def timed(call: Callable[[], Floats]) -> tuple[float, Floats]:
    """Return the seconds that a call took, and what it gave."""
    begin = time.perf_counter()
    found = call()
    return time.perf_counter() - begin, found


def _alone(row: Row, tokens: EncodedPairs) -> Floats:
    return row.model.submit(tokens, batch_size=row.system.options.batch_size).wait()


# -- from times to figures


def speed_of(row: Row, first: Row, reference: Sequence[Floats]) -> Speed:
    """Return the figures of a row. `first` is what its ratio is to, `reference` its bundle's FP32 logits."""
    system, manifest = row.system, row.system.bundle.manifest
    lengths = row.lengths
    seconds = np.array(row.end_to_end)
    alone = np.array(row.alone)
    whole = seconds.sum(axis=1)
    try:
        gflop = (
            flops_of(system.bundle, lengths, native=isinstance(system.execution, CpuConfig) and system.execution.native)
            / len(lengths)
            / 1e9
        )
    except KeyError:
        gflop = None
    padding = None
    if isinstance(system.execution, CpuConfig):
        shares = [
            (padding_of(system.execution, manifest.max_positions, t.lengths, batch_size=system.options.batch_size), t)
            for t in row.tokens
        ]
        computed = sum(t.lengths.sum() / (1 - share) for share, t in shares)
        padding = float(1 - lengths.sum() / computed)
    return Speed(
        **identity(system),
        pairs_per_s=Spread.of(row.pairs / whole),
        tokens_per_s=Spread.of(lengths.sum() / whole),
        model_pairs_per_s=Spread.of(row.pairs / alone.sum(axis=1)) if alone.size else None,
        # Of one request's times each, so that what else the machine does hits both alike.
        ratio=Spread.of((np.array(first.end_to_end) / seconds).ravel()),
        padding=padding,
        gflop_per_pair=gflop,
        warm_up_s=row.warm_up_s,
        latencies=[latency_of(count, times) for count, times in row.latencies.items()],
        difference=difference_of(row, reference),
    )


def identity(system: ModelConfig) -> dict[str, Any]:
    """Return the fields of a `Speed` that say what it is."""
    return {
        "label": system.label,
        "model": str(system.bundle.manifest.source.get("id")),
        "bundle_sha256": system.bundle_sha256,
        "precision": system.precision.value,
        "backend": system.execution.backend,
        "device": system.execution.device,
        "threads": system.execution.threads,
        "runs_on": system.runs_on,
    }


def latency_of(count: int, seconds: Sequence[float]) -> Latency:
    """Return the percentiles of these times."""
    found = np.sort(1e3 * np.array(seconds))
    n = len(found)
    # The binomial's normal approximation; of few requests it is the whole range.
    reach = 0.98 * np.sqrt(n)
    low, high = max(0, int(np.floor(n / 2 - reach))), min(n - 1, int(np.ceil(n / 2 + reach)))
    p50, p95, p99 = (float(value) for value in np.percentile(found, (50, 95, 99)))
    return Latency(
        passages=count,
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        requests=n,
        p50_interval=[float(found[low]), float(found[high])],
    )


def reference_of(row: Row) -> list[Floats]:
    """Return what the row's bundle scores the same requests in FP32, for where no row is in FP32."""
    options = row.system.options
    with CrossEncoder(row.system.bundle.path, device="cpu", max_length=options.max_length) as model:
        return [model.logits(pairs) for pairs in row.requests]


def difference_of(row: Row, reference: Sequence[Floats]) -> Difference:
    """Return how far a row's logits are from the reference's, of the same pairs.

    Raises BackendError for logits that are not numbers.
    """
    ours, theirs = np.concatenate(row.logits), np.concatenate(reference)
    if not np.isfinite(ours).all():
        raise BackendError(f"{row.system.label} gives logits that are not numbers on the measured pairs")
    differences = np.abs(ours - theirs).astype(np.float64)
    ranks = row.model.relevant_label is not None
    label = row.model.relevant_label or 0
    overlaps = [
        top_overlap(row.model.relevance(other), row.model.relevance(mine), TOP)
        for mine, other in zip(row.logits, reference, strict=True)
        if len(mine) > TOP and ranks
    ]
    return Difference(
        max_abs=float(differences.max()),
        mean_abs=float(differences.mean()),
        top10_overlap=float(np.mean(overlaps)) if len(overlaps) >= QUERIES else None,
        reference=[float(value) for value in theirs[:SAMPLE, label]],
        logits=[float(value) for value in ours[:SAMPLE, label]],
    )
