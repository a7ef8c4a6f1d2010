"""The figures of a row, computed from its times and logits."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..calibration.judging_set import MIN_QUERIES
from ..calibration.ranking import top_overlap
from ..engine.cross_encoder import CrossEncoder
from ..engine.errors import BackendError
from ..engine.scores import best_first
from ..engine.selection.execution_config import CpuConfig
from ..measurement.model_config import ModelConfig
from .measure import Floats, Row
from .operations import flops_of, padding_of
from .result.speeds import Difference, Latency, Speed, Spread

TOP = 10
SAMPLE = 500
"""Number of logits of each row that a result keeps, for a chart."""


def speed_of(row: Row, first: Row, reference: Sequence[Floats]) -> Speed:
    """Return the figures of a row. `first` is the row that its ratio refers to, `reference` its bundle's FP32 logits."""
    lengths = row.lengths
    seconds = np.array(row.end_to_end)
    alone = np.array(row.alone)
    whole = seconds.sum(axis=1)
    exact = row.config.top_k is not None
    return Speed(
        **identity(row.config),
        pairs_per_s=Spread.of(row.pairs / whole),
        tokens_per_s=Spread.of(lengths.sum() / whole),
        model_pairs_per_s=Spread.of(row.pairs / alone.sum(axis=1)) if alone.size else None,
        # Each ratio compares two times of the same request, so that other load on the machine affects both rows alike.
        ratio=Spread.of((np.array(first.end_to_end) / seconds).ravel()),
        # An exact ranking computes in two precisions, which have no common ceiling.
        padding=None if exact else _padding(row),
        gflop_per_pair=None if exact else _gflop_per_pair(row),
        warm_up_s=row.warm_up_s,
        latencies=[latency_of(count, times) for count, times in row.latencies.items()],
        difference=difference_of_best(row, reference) if exact else difference_of(row, reference),
    )


def _gflop_per_pair(row: Row) -> float | None:
    config, lengths = row.config, row.lengths
    native = isinstance(config.execution, CpuConfig) and config.execution.native
    try:
        return flops_of(config.bundle, lengths, native=native) / len(lengths) / 1e9
    except KeyError:
        return None


def _padding(row: Row) -> float | None:
    """Return the share of computed tokens that is padding, or None on a GPU."""
    config, lengths = row.config, row.lengths
    if not isinstance(config.execution, CpuConfig):
        return None
    positions = config.bundle.manifest.max_positions
    shares = [
        (padding_of(config.execution, positions, tokens.lengths, batch_size=config.options.batch_size), tokens)
        for tokens in row.tokens
    ]
    computed = sum(tokens.lengths.sum() / (1 - share) for share, tokens in shares)
    return float(1 - lengths.sum() / computed)


def identity(config: ModelConfig) -> dict[str, Any]:
    """Return the fields of a `Speed` that identify its row."""
    return {
        "label": config.label,
        "model": str(config.bundle.manifest.source.get("id")),
        "bundle_sha256": config.bundle_sha256,
        "precision": config.precision.value,
        "backend": config.execution.backend,
        "device": config.execution.device,
        "threads": config.execution.threads,
        "runs_on": config.runs_on,
        "method": config.method,
    }


def latency_of(count: int, seconds: Sequence[float]) -> Latency:
    """Return the percentiles of these times, and the 95 % interval of the median by order statistics."""
    found = np.sort(1e3 * np.array(seconds))
    n = len(found)
    # Normal approximation of the binomial distribution: 1.96 sqrt(n) / 2. For few requests this is the whole range.
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
    """Return the FP32 logits of the row's bundle for the same requests. Needed if no row of the bundle is in FP32."""
    options = row.config.options
    with CrossEncoder(row.config.bundle.path, device="cpu", max_length=options.max_length) as model:
        return [model.logits(pairs) for pairs in (*row.requests, *row.untimed)]


def difference_of(row: Row, reference: Sequence[Floats]) -> Difference:
    """Return the differences of a row's logits from the reference on the same pairs.

    Raises BackendError for non-finite logits.
    """
    ours, theirs = np.concatenate(row.logits), np.concatenate(reference)
    if not np.isfinite(ours).all():
        raise BackendError(f"{row.config.label} gives logits that are not numbers on the measured pairs")
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
        top10_overlap=float(np.mean(overlaps)) if len(overlaps) >= MIN_QUERIES else None,
        reference=[float(value) for value in theirs[:SAMPLE, label]],
        logits=[float(value) for value in ours[:SAMPLE, label]],
    )


def difference_of_best(row: Row, reference: Sequence[Floats]) -> Difference:
    """Return how far the scores of an exact ranking's passages are from the reference's scores of the same passages.

    `top10_overlap` is the share of the reference's best passages that the ranking returned.
    """
    differences: list[float] = []
    overlaps = []
    for best, logits in zip(row.best, reference, strict=True):
        scores = row.model.relevance(logits)
        expected = best_first(scores, len(best))
        differences += [abs(each["score"] - float(scores[each["corpus_id"]])) for each in best]
        overlaps.append(len({*expected} & {each["corpus_id"] for each in best}) / len(best))
    return Difference(
        max_abs=max(differences),
        mean_abs=float(np.mean(differences)),
        top10_overlap=float(np.mean(overlaps)) if len(overlaps) >= MIN_QUERIES else None,
        reference=[],
        logits=[],
    )
