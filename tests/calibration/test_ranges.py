"""Where each method clips, on distributions whose answer is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossrt.calibration.ranges import LEVELS, METHODS, clip_at

NORMAL = np.random.default_rng(0).standard_normal(200_000).astype(np.float32)


def error(values: np.ndarray, clip: float) -> float:
    step = clip / LEVELS
    return float(((np.clip(np.rint(values / step), -LEVELS, LEVELS) * step - values) ** 2).mean())


def test_minmax_is_the_largest_magnitude() -> None:
    assert clip_at(np.array([[-3.0, 2.0]], dtype=np.float32), "minmax") == 3


@pytest.mark.parametrize("method", METHODS)
def test_one_outlier_among_many_is_clipped(method: str) -> None:
    values = np.append(NORMAL, np.float32(20))
    assert clip_at(values, "minmax") == 20
    assert clip_at(values, method) < 12


def test_percentile_leaves_one_in_ten_thousand_outside() -> None:
    clip = clip_at(NORMAL, "percentile")
    assert np.mean(np.abs(NORMAL) > clip) == pytest.approx(1e-4, abs=5e-5)


def test_mse_has_less_error_than_any_other_clip() -> None:
    values = np.random.default_rng(1).standard_t(3, 100_000).astype(np.float32)
    best = clip_at(values, "mse")
    others = np.abs(values).max() * np.linspace(0.02, 1, 40)
    assert error(values, best) <= min(error(values, float(clip)) for clip in others) * 1.02


def test_entropy_keeps_a_uniform_range_whole() -> None:
    values = np.random.default_rng(2).uniform(-4, 4, 200_000).astype(np.float32)
    assert clip_at(values, "entropy") > 3.5


@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60),
    st.sampled_from(["minmax", *METHODS]),
)
def test_a_clip_lies_between_nothing_and_the_largest(numbers: list[float], method: str) -> None:
    values = np.array(numbers, dtype=np.float32)
    clip = clip_at(values, method)
    assert 0 <= clip <= np.abs(values).max() * (1 + 1e-6)
    assert (clip > 0) == bool(values.any())
