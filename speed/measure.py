"""`measure` times rows in turns."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ..calibration.judging_set import MIN_QUERIES
from ..engine.cross_encoder import CrossEncoder
from ..engine.text.encoded_pairs import EncodedPairs
from ..engine.text.tokenizer import read_tokenizer
from ..measurement.model_config import ModelConfig
from .ceiling.probe import Probe
from .texts import Pairs, Texts

LIST = 100
"""Number of passages in a request that measures throughput."""
LATENCY_SECONDS = 3.0
"""Seconds for which requests of one size are repeated for each row, within `Plan.least_requests` and MAX_REQUESTS."""
MAX_REQUESTS = 100

Floats = npt.NDArray[np.float32]
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured.

    Throughput is measured with `lists` requests of `list_length` pairs in each of `repeats` repeats, latency with one query with
    each of `counts` passages, and the start-up time with `starts` processes. `memory` is the peak memory, and `alone` the speed
    of the model without tokenization. `judged` is the number of lists by which rankings are compared; those that are not timed
    are scored once. What is 0, empty or False is not measured.
    """

    repeats: int = 5
    lists: int = 2
    list_length: int = LIST
    counts: Sequence[int] = (1, 10, 100, 1000)
    starts: int = 5
    memory: bool = True
    alone: bool = True
    judged: int = MIN_QUERIES
    least_requests: int = 3
    latency_s: float = LATENCY_SECONDS


@dataclass(slots=True, kw_only=True)
class Row:
    """An open model and its times, in seconds."""

    config: ModelConfig
    model: CrossEncoder
    requests: list[Pairs]
    untimed: list[Pairs]
    """Further requests, which are scored once for a comparison of rankings."""
    tokens: list[EncodedPairs]
    by_count: dict[int, list[Pairs]]
    warm_up_s: float = 0.0
    end_to_end: list[list[float]] = field(default_factory=list)
    """Seconds of each request, by repeat."""
    alone: list[list[float]] = field(default_factory=list)
    latencies: dict[int, list[float]] = field(default_factory=dict)
    logits: list[Floats] = field(default_factory=list)
    """The logits of each request, timed and untimed. Empty for an exact ranking."""
    best: list[list[dict[str, Any]]] = field(default_factory=list)
    """For an exact ranking, the passages that it returns for each request, best first."""

    def score(self, pairs: Pairs) -> Floats | list[dict[str, Any]]:
        """Score a request, or for an exact ranking find its best passages."""
        if self.config.top_k is None:
            return self.model.logits(pairs)
        return self.model.rank(pairs[0][0], [passage for _, passage in pairs], **self.config.rank_options)

    def keep(self, found: Floats | list[dict[str, Any]]) -> None:
        """Keep what `score` returned for a request."""
        if isinstance(found, list):
            self.best.append(found)
        else:
            self.logits.append(found)

    @property
    def pairs(self) -> int:
        """Number of pairs in one repeat."""
        return sum(map(len, self.requests))

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Number of tokens of each of these pairs, int64 [pairs]."""
        return np.concatenate([tokens.lengths for tokens in self.tokens])


def opened(config: ModelConfig, texts: Texts, plan: Plan) -> Row:
    """Open a model and make its requests. Raises the errors of `CrossEncoder`."""
    tokenizer = read_tokenizer(config.bundle.tokenizer_file)
    encoder = config.bundle.pair_tokenizer(max_length=config.options.max_length)
    # Random words, and lists of few queries, say nothing about rankings.
    judged = plan.judged if len(texts.lists) >= plan.judged else 0
    requests = [texts.request(number, plan.list_length, tokenizer) for number in range(max(plan.lists, judged))]
    requests, untimed = requests[: plan.lists], requests[plan.lists :]
    by_count = {
        count: [texts.request(number, count, tokenizer) for number in range(_requests_of(count, plan))]
        for count in plan.counts
    }
    return Row(
        config=config,
        model=config.open(),
        requests=requests,
        untimed=untimed,
        tokens=[encoder.encode(pairs) for pairs in requests],
        by_count=by_count,
    )


def _requests_of(count: int, plan: Plan) -> int:
    """Return the number of different requests of one size. Small ones vary more in total length, so there are more of them."""
    return max(plan.lists, min(MAX_REQUESTS, 1000 // count))


def warm_up(row: Row) -> None:
    """Run a request of every size once, and store the time as `warm_up_s`.

    Requests of more than LIST passages are left out. Their batches have the same shapes, and they would take as long as all
    others together.
    """
    begin = time.perf_counter()
    small = (requests[0] for count, requests in row.by_count.items() if count <= LIST)
    for pairs in (*row.requests, *small):
        row.score(pairs)
    row.warm_up_s = time.perf_counter() - begin


def measure(rows: Sequence[Row], plan: Plan, probe: Probe, *, progress: Callable[[], object]) -> None:
    """Time all rows in turns, after their warm-up, and store the times in them.

    `probe` runs before each request that all rows score, and for latencies before every tenth. `progress` is called after each
    repeat and each count.
    """
    for repeat in range(plan.repeats):
        for row in rows:
            row.end_to_end.append([])
            row.alone.append([])
        for number in range(plan.lists):
            probe.run()
            for row in _turned(rows, repeat + number):
                seconds, found = timed(lambda row=row: row.score(row.requests[number]))  # type: ignore[misc] # noqa: B023
                row.end_to_end[-1].append(seconds)
                if repeat == 0:
                    row.keep(found)
                if plan.alone and row.config.top_k is None:
                    row.alone[-1].append(timed(lambda row=row: _alone(row, row.tokens[number]))[0])  # type: ignore[misc] # noqa: B023
        progress()
    for count in plan.counts:
        _latencies(rows, count, plan, probe)
        progress()
    for row in rows:
        for pairs in row.untimed:
            row.keep(row.score(pairs))
    progress()


def _latencies(rows: Sequence[Row], count: int, plan: Plan, probe: Probe) -> None:
    """Time one query with `count` passages until each row has had its share of time, but at least `plan.least_requests` times."""
    taken = 0.0
    number = 0
    while number < MAX_REQUESTS and (number < plan.least_requests or taken < plan.latency_s * len(rows)):
        if number % 10 == 0:
            probe.run()
        for row in _turned(rows, number):
            pairs = row.by_count[count][number % len(row.by_count[count])]
            seconds, _ = timed(lambda row=row, pairs=pairs: row.score(pairs))  # type: ignore[misc]
            row.latencies.setdefault(count, []).append(seconds)
            taken += seconds
        number += 1


def _turned(rows: Sequence[Row], by: int) -> list[Row]:
    turn = by % len(rows)
    return [*rows[turn:], *rows[:turn]]


def timed(call: Callable[[], Found]) -> tuple[float, Found]:
    """Return the seconds that a call took, and its result."""
    begin = time.perf_counter()
    found = call()
    return time.perf_counter() - begin, found


def _alone(row: Row, tokens: EncodedPairs) -> Floats:
    return row.model.submit(tokens, batch_size=row.config.options.batch_size).wait()
