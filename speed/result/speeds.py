"""`Speeds`: the result of `crossrt bench`, as it is printed and as it is kept."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ...measurement.kept_result import CHECKED, read_kept

SCHEMA = 1
KIND = "crossrt speeds"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """One figure, measured several times: the median, the 5th and 95th percentile, and how often."""

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
        """Half of the way from the 5th to the 95th percentile, as a share of the median."""
        return (self.p95 - self.p5) / 2 / abs(self.median) if self.median else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Milliseconds of one query with so many `passages`, from texts to scores, over so many `requests`.

    `p50_interval` is the median's 95 % interval, by order statistics, and `of_ceiling` the median's rate as a share of
    the machine's own.
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
    """The most that the machine reaches of one `quantity`, in `unit`, with so many threads, and what reached it.

    Quantities are `fp32`, `bf16` and `int8`, the rate of matrix products in GFLOP/s (10^9 operations a second), and
    `memory`, in GB/s read. `rates` has every kernel's best, by name; `rate` is the largest of them.
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
    """The pairs that were scored: where their texts or lengths come from, and their tokens."""

    source: str
    sha256: str | None
    pairs: int
    mean_tokens: float
    p50_tokens: float
    p99_tokens: float
    histogram: Mapping[str, int]
    """Pairs by length in steps of 16 tokens; `"96"` counts those of 96 to 111."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How far the logits are from the bundle's FP32 ones on the pairs that were measured: absolute differences.

    `reference` and `logits` are a sample, pair by pair, for a picture. `top10_overlap` is a mean over lists of 100, None
    of fewer than 20. For the first FP32 row itself all differences are 0.
    """

    max_abs: float
    mean_abs: float
    top10_overlap: float | None
    reference: Sequence[float]
    logits: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """One row: a bundle in one precision by one backend on so many threads. `failed` says why there is no figure.

    `pairs_per_s` and `tokens_per_s` (real tokens, padding not counted) are end to end, from texts to scores, in requests
    of 100; `model_pairs_per_s` is the model alone, from token ids to logits. `padding` is the share of computed tokens
    that is padding, `gflop_per_pair` what the graph computes for an average pair, and `of_ceiling` the rate, end to end,
    as a share of the machine's own; `model_of_ceiling` is the model's alone. `ratio` is to the first row, of interleaved
    repeats. `start_s` is from the start of a process to its first score, `memory_mb` its largest resident size after a
    request of every size. `warm_up_s` is what the first pass over all of them took, which is in no other figure.
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
    published: Mapping[str, float] | None = None
    """What the model's card says: `ndcg10`, `mrr10` and `docs_per_s_v100`; None for a model that has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """How fast one row is along one axis: `tokens` of a batch, its `sequence`, or `threads`.

    `fit` is the curve that was fitted to the points, in words with its constants, and `fitted` its values at them.
    """

    label: str
    axis: str
    at: Sequence[float]
    pairs_per_s: Sequence[Spread]
    fit: str
    fitted: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Speeds:
    """What was measured, where, and how fast each row is. Holds no texts and no paths.

    `noise` is how much one and the same piece of work varied during the run, as a share (95th percentile over the median,
    less 1): figures that differ by less say nothing.
    """

    __pydantic_config__: ClassVar = CHECKED

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
    """Day of the measurement, as 2026-11-25."""

    def to_json(self) -> str:
        """Return indented JSON that `read` reads back to an equal result; figures have six digits."""
        return json.dumps(_shortened(dataclasses.asdict(self)), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def read(cls, path: Path) -> "Speeds":
        """Read what `to_json` wrote. Raises DataFileError, naming the file and the line or field, for anything else."""
        return read_kept(cls, path, kind=KIND, schema=SCHEMA, command="crossrt bench")


def _shortened(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {name: _shortened(each) for name, each in value.items()}
    return [_shortened(each) for each in value] if isinstance(value, (list, tuple)) else value
