"""`Speeds`: the result of `crossrt bench`, stored as JSON."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ...measurement.stored_result import STRICT, read_stored

SCHEMA = 1
KIND = "crossrt speeds"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A figure that was measured `repeats` times, with its median and its 5th and 95th percentile."""

    median: float
    p5: float
    p95: float
    repeats: int

    @classmethod
    def of(cls, values: npt.ArrayLike) -> "Spread":
        """Return the spread of at least one value."""
        found = np.asarray(values, dtype=np.float64)
        low, middle, high = (float(value) for value in np.percentile(found, (5, 50, 95)))
        return cls(median=middle, p5=low, p95=high, repeats=len(found))

    @property
    def width(self) -> float:
        """Half of the distance from the 5th to the 95th percentile, as a share of the median."""
        return (self.p95 - self.p5) / 2 / abs(self.median) if self.median else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Milliseconds for one query with `passages` passages, from texts to scores, over `requests` requests.

    `p50_interval` is the 95 % interval of the median, by order statistics. `of_ceiling` is the rate at the median as a share of
    the machine's ceiling.
    """

    passages: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    requests: int
    p50_interval: Sequence[float] | None = None
    of_ceiling: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """The highest rate of one `quantity`, in `unit`, that the machine reaches with `threads` threads.

    Quantities are `fp32`, `bf16` and `int8`, the rate of matrix products in GFLOP/s (10^9 operations per second), and `memory`,
    the rate of reading in GB/s. `rates` has the best rate of every kernel, by name. `rate` is the largest, and `by` the kernel
    that reaches it.
    """

    quantity: str
    unit: str
    threads: int
    rate: float
    by: str
    rates: Mapping[str, float]
    device: str = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The pairs that were scored: the source of their texts or lengths, and their tokens."""

    source: str
    sha256: str | None
    pairs: int
    mean_tokens: float
    p50_tokens: float
    p99_tokens: float
    histogram: Mapping[str, int]
    """Number of pairs by length, in steps of 16 tokens. `"96"` counts pairs of 96 to 111 tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Absolute differences of the logits from the bundle's FP32 logits on the measured pairs.

    `reference` and `logits` are a sample, pair by pair, for charts. `top10_overlap` is a mean over the lists, or None for fewer
    than 20 lists. The first FP32 row of a bundle is the reference, so its differences are 0.
    """

    max_abs: float
    mean_abs: float
    top10_overlap: float | None
    reference: Sequence[float]
    logits: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """A row: a bundle in one precision, with one backend and number of threads. `failed` is the reason if it has no figures.

    `pairs_per_s` and `tokens_per_s` (real tokens without padding) are end to end, from texts to scores, in requests of 100.
    `model_pairs_per_s` is only the model, from token ids to logits. `ratio` is the speed relative to the first row, from
    interleaved requests.

    `padding` is the share of computed tokens that is padding. `gflop_per_pair` is the work of the graph for an average pair.
    `of_ceiling` is the end-to-end rate as a share of the machine's ceiling, and `model_of_ceiling` the model's rate as a share of
    it. `start_s` is the time from the start of a process to its first score, and `memory_mb` the peak resident memory after a
    request of every size. `warm_up_s` is the time of a first pass over requests of all sizes up to 100, which is in no other
    figure.
    """

    label: str
    model: str
    bundle_sha256: str
    precision: str
    backend: str
    device: str
    threads: int
    runs_on: str
    failed: str | None = None
    pairs_per_s: Spread | None = None
    tokens_per_s: Spread | None = None
    model_pairs_per_s: Spread | None = None
    ratio: Spread | None = None
    padding: float | None = None
    gflop_per_pair: float | None = None
    of_ceiling: float | None = None
    model_of_ceiling: float | None = None
    warm_up_s: float | None = None
    latencies: Sequence[Latency] = ()
    start_s: Spread | None = None
    memory_mb: float | None = None
    difference: Difference | None = None
    method: str | None = None
    """How an exact ranking ranks, such as `exact top 10`. Its `difference` is that of the passages that it returns. None for a
    row that scores all pairs in its precision."""
    published: Mapping[str, float] | None = None
    """Figures of the model's card: `ndcg10`, `mrr10` and `docs_per_s_v100`. None for a model without a card."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The speed of a row along one axis: `tokens` of a batch, `sequence` length, or `threads`.

    `fit` is the formula of the fitted curve with its constants, and `fitted` its values at the points `at`.
    """

    label: str
    axis: str
    at: Sequence[float]
    pairs_per_s: Sequence[Spread]
    fit: str
    fitted: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Speeds:
    """The speeds of all rows, with the machine and the workload. It holds no texts and no paths.

    `noise` is how much a fixed piece of work varied during the run (95th percentile over the median, minus 1). Smaller
    differences between figures are not significant.
    """

    __pydantic_config__: ClassVar = STRICT

    schema: int = SCHEMA
    kind: str = KIND
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    commit: str
    workload: Workload
    ceilings: Sequence[Ceiling]
    noise: float
    rows: Sequence[Speed]
    curves: Sequence[Curve] = ()
    date: str | None = None
    """Day of the measurement, such as 2026-11-25."""

    def to_json(self) -> str:
        """Return indented JSON for `read`. Figures have six significant digits."""
        return json.dumps(_shortened(dataclasses.asdict(self)), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def read(cls, path: Path) -> "Speeds":
        """Read what `to_json` wrote. Raises DataFileError, naming the file and the line or field, for anything else."""
        return read_stored(cls, path, kind=KIND, schema=SCHEMA, command="crossrt bench")


def _shortened(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {name: _shortened(each) for name, each in value.items()}
    return [_shortened(each) for each in value] if isinstance(value, (list, tuple)) else value
