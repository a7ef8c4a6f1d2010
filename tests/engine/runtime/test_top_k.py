"""The k best pairs are those of the precise scores, though most pairs are scored by the cheaper ones alone."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossrt.engine.activation import apply
from crossrt.engine.bundle.score_error import ScoreErrorStats
from crossrt.engine.errors import OptionError
from crossrt.engine.runtime.top_k import TopK, exact_top_k

Floats = npt.NDArray[np.float32]
ERROR = ScoreErrorStats(mean=0.0, deviation=0.05, excess=0.2, pairs=1000)


def sigmoid(scores: Floats) -> Floats:
    return apply("sigmoid", scores)


def best(precise: Floats, k: int, activate: Callable[[Floats], Floats] = lambda scores: scores) -> list[int]:
    """The k best of all precise scores, by NumPy alone."""
    found: list[int] = np.argsort(-activate(precise), kind="stable")[:k].tolist()
    return found


def top_k(precise: Floats, estimates: Floats, k: int, error: ScoreErrorStats = ERROR) -> tuple[TopK, list[list[int]]]:
    asked: list[list[int]] = []

    def rescore(rows: npt.NDArray[np.int64]) -> Floats:
        asked.append(rows.tolist())
        return precise[rows]

    return exact_top_k(estimates, k, rescore, error), asked


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 200), k=st.integers(1, 60), tied=st.booleans())
def test_only_errors_above_the_margin_change_the_list(seed: int, count: int, k: int, tied: bool) -> None:
    chance = np.random.default_rng(seed)
    precise = chance.normal(0, 2, count).astype(np.float32)
    if tied:
        precise = np.round(precise * 2) / 2
    estimates = (precise - chance.uniform(-0.5, 0.2, count)).astype(np.float32)
    judged = ScoreErrorStats(mean=-0.15, deviation=0.202, excess=0.35, pairs=1000)  # those of this distribution
    found, asked = top_k(precise, estimates, k, judged)
    expected = best(precise, k)
    missed = [row for row in expected if row not in found.rows]
    assert all(precise[missed] - estimates[missed] > found.margin - 1e-6)
    assert missed or found.rows.tolist() == expected
    assert found.scores.tolist() == precise[found.rows].tolist()
    rows = [row for each in asked for row in each]
    assert len(rows) == len(set(rows)) == found.rescored, "no pair is scored precisely twice"
    assert len(asked) == found.rounds


def test_only_the_pairs_near_the_kth_are_scored_again() -> None:
    precise = np.linspace(10, -10, 1000).astype(np.float32)
    found, asked = top_k(precise, precise, 10)
    assert found.rows.tolist() == list(range(10))
    assert asked == [list(range(found.rescored))]
    assert 19 <= found.rescored <= 20, "0.2 is the margin, and they are 0.02 apart"


def test_errors_larger_than_the_judged_ones_widen_the_margin() -> None:
    """Texts unlike those of the judging: errors are ten times as large, and a passage far below belongs at the top."""
    chance = np.random.default_rng(0)
    precise = np.linspace(10, -10, 500).astype(np.float32)
    estimates = precise - chance.normal(0, 0.5, 500).astype(np.float32)
    estimates[5] = precise[5] - np.float32(1.5)
    found, _ = top_k(precise, estimates, 10)
    assert found.rows.tolist() == best(precise, 10)
    assert found.margin > 1.5
    assert found.rescored < 250


def test_what_no_margin_can_know_is_missed_and_scores_stay_precise() -> None:
    """The promise has a limit: a single wild estimate among sound ones."""
    precise = np.linspace(10, -10, 100).astype(np.float32)
    estimates = precise.copy()
    estimates[3] = -10
    found, _ = top_k(precise, estimates, 10)
    assert found.rows.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9, 10]
    assert found.scores.tolist() == precise[found.rows].tolist()


@pytest.mark.parametrize("wild", [np.nan, np.inf, -np.inf])
def test_pairs_without_a_finite_estimate_are_scored_precisely(wild: float) -> None:
    precise = np.linspace(10, -10, 100).astype(np.float32)
    estimates = precise.copy()
    estimates[[3, 60]] = wild
    found, asked = top_k(precise, estimates, 10)
    assert found.rows.tolist() == list(range(10))
    assert {3, 60} <= {row for each in asked for row in each}


def test_a_saturated_activation_ties_scores_which_keep_the_order_given() -> None:
    precise = np.array([20, 30, 25, 40, -3], dtype=np.float32)
    found = exact_top_k(precise - 5, 2, lambda rows: precise[rows], ERROR, activate=sigmoid)
    assert found.rows.tolist() == best(precise, 2, sigmoid) == [0, 1], "in FP32 the sigmoid of all four is 1"


@pytest.mark.parametrize(("count", "k"), [(0, 3), (5, 0), (1, 1), (3, 10), (4, 4)])
def test_short_lists_and_odd_k(count: int, k: int) -> None:
    precise = np.arange(count, dtype=np.float32)
    found, _ = top_k(precise, precise, k)
    assert found.rows.tolist() == best(precise, k)
    assert len(found.scores) == min(count, k)


def test_equal_scores_keep_the_order_given() -> None:
    found, _ = top_k(np.ones(50, dtype=np.float32), np.ones(50, dtype=np.float32), 5)
    assert found.rows.tolist() == [0, 1, 2, 3, 4]


def test_the_error_is_measured_as_numpy_measures_it() -> None:
    chance = np.random.default_rng(1)
    reference = chance.normal(0, 3, 5000).astype(np.float32)
    scores = reference + chance.normal(0.1, 0.2, 5000).astype(np.float32)
    error = ScoreErrorStats.of(reference, scores)
    differences = (reference - scores).astype(np.float64)
    assert error.mean == pytest.approx(np.mean(differences), rel=1e-5)
    assert error.deviation == pytest.approx(np.std(differences), rel=1e-5)
    assert error.mean + error.excess == pytest.approx(np.quantile(differences, 0.999), rel=1e-5)
    assert error.pairs == 5000
    assert ScoreErrorStats.of(reference, reference).margin(np.array([0.5], dtype=np.float32)) == 0.5


def test_what_all_pairs_have_in_common_costs_nothing() -> None:
    """INT8 may shift all scores of a request: the shift is not the judged one, and moves no pair past another."""
    precise = np.linspace(10, -10, 1000).astype(np.float32)
    for shift in (-3, 3):
        found, _ = top_k(precise, precise + np.float32(shift), 10)
        assert found.rows.tolist() == list(range(10))
        assert found.rescored < 260


@pytest.mark.parametrize(
    "wrong",
    [{"mean": float("inf")}, {"deviation": -1.0}, {"deviation": float("nan")}, {"excess": float("inf")}, {"pairs": 0}],
)
def test_an_impossible_error_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(OptionError, match="cannot be measured"):
        ScoreErrorStats(**{"mean": 0.0, "deviation": 0.1, "excess": 0.2, "pairs": 10, **wrong})
