"""`Peers`: the result of `benchmarks/cpu.py`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSystem:
    """A row of benchmarks/cpu.py: the speed of a system relative to the reference, or why it `failed`.

    A ratio is the reference's time for a request divided by this system's. The row has their median and 5th and 95th percentile.
    """

    system: str
    versions: Mapping[str, str]
    failed: str | None = None
    requests: int | None = None
    pairs_per_s: float | None = None
    ratio_median: float | None = None
    ratio_p5_p95: tuple[float, float] | None = None
    ms_p50_p95_p99: tuple[float, float, float] | None = None
    max_abs_diff: float | None = None
    mean_abs_diff: float | None = None
    top10_overlap: float | None = None
    of_ceiling: float | None = None
    other_scores: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers:
    """A result of benchmarks/cpu.py: one model in several systems. `padding` is the share of padding for each way of batching."""

    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    commit: str
    model: str
    threads: int
    requests: int
    candidates: int
    ceiling_gflops: Mapping[str, float]
    padding: Mapping[str, float]
    systems: Sequence[PeerSystem]
    date: str | None = None
