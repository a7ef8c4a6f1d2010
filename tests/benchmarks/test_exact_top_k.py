"""benchmarks/exact_top_k.py counts failures, near ties and queries, and bounds their rates as the binomial distribution does."""

import math
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest

from crossrt.engine.bundle.score_error import ScoreErrorStats

ERROR = ScoreErrorStats(mean=0.0, deviation=0.01, excess=0.05, pairs=1000)


@pytest.fixture
def benchmark(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("exact_top_k")


@pytest.mark.parametrize(("failures", "trials"), [(0, 1), (0, 43), (0, 21925), (1, 15810), (7, 43)])
def test_the_upper_limit_leaves_five_percent(benchmark: ModuleType, failures: int, trials: int) -> None:
    limit = benchmark.upper_limit(failures, trials)
    at_most = sum(math.comb(trials, n) * limit**n * (1 - limit) ** (trials - n) for n in range(failures + 1))
    assert at_most == pytest.approx(0.05, rel=0.02)


def test_the_limit_of_many_failures_is_that_of_the_beta_distribution(benchmark: ModuleType) -> None:
    assert benchmark.upper_limit(300, 1000) == pytest.approx(0.32475, abs=5e-4), "scipy.stats.beta.ppf(0.95, 301, 700)"


def test_all_failed_and_nothing_tried(benchmark: ModuleType) -> None:
    assert benchmark.upper_limit(5, 5) == 1
    assert benchmark.upper_limit(0, 0) is None


def test_failures_near_ties_and_queries_are_counted(benchmark: ModuleType) -> None:
    """Ten passages each, so every list is the whole one. One query has a wild estimate that no margin can know."""
    sound = np.linspace(10, 1, 10).astype(np.float32)
    near = sound.copy()
    near[3] = near[2] - np.float32(0.005)
    swapped = near.copy()
    swapped[2], swapped[3] = near[3], near[2]
    wild = sound.copy()
    wild[0] = -50
    scored = [
        [[sound, sound, sound]],
        [[near, swapped, swapped]],
        [[sound, wild, sound]],
    ]
    result = benchmark.quality(scored, ERROR, 3)
    assert [(row["length"], row["k"]) for row in result["quality"]] == [(10, 1), (10, 3), (10, 5), (10, 10)]
    for row in result["quality"]:
        k = row["k"]
        assert (row["lists"], row["queries"], row["near_ties"]) == (3, 3, k == 3)
        # Near scores: the cheaper one has others among the best 3, and another order of the best 5 and 10.
        assert row["alone"]["other_set"] == (k == 3) + (k < 10)
        assert row["alone"]["other_list"] == (k >= 3) + 1
        assert row["exact"]["other_list"] == (k < 10), "the wild estimate"
        assert row["exact"]["near_ties_other_list"] == 0
        # BF16 decides as it computes: the best 3 are others where it swaps them.
        assert row["second pass in BF16"]["near_ties_other_list"] == (k == 3)
    assert result["all"]["lists"] == 12
    exact = result["all"]["exact"]
    assert (exact["other_list"], exact["queries_with_another_list"]) == (3, 1)
    assert exact["upper_95"] == benchmark.upper_limit(3, 12)
    assert exact["upper_95_of_queries"] == benchmark.upper_limit(1, 3)
