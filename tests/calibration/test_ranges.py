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


def test_entropy_has_less_divergence_than_any_other_clip() -> None:
    values = np.random.default_rng(3).standard_normal(5_000)
    counts, edges = np.histogram(np.abs(values), bins=200)
    counts[0] = counts[1]

    def divergence(stop: int) -> float:
        kept = counts[:stop].tolist()
        reference = [*kept[:-1], kept[-1] + int(counts[stop:].sum())]
        steps = [bin_ * (LEVELS + 1) // stop for bin_ in range(stop)]
        candidate = []
        for place, step in enumerate(steps):
            filled = [count for count, other in zip(kept, steps, strict=True) if other == step and count]
            candidate.append(sum(filled) / len(filled) if kept[place] else 0.0)
        total, both = sum(reference), [pair for pair in zip(reference, candidate, strict=True) if all(pair)]
        whole = sum(count for _, count in both)
        lost = sum(count for count, other in zip(reference, candidate, strict=True) if not other) / total
        return lost * 10 + sum(p / total * np.log(p / total / (q / whole)) for p, q in both)

    best = min(range(LEVELS + 1, len(counts) + 1, 8), key=divergence)
    assert METHODS["entropy"](counts.astype(np.float64), edges) == edges[best]
    assert LEVELS + 1 < best < len(counts)


@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60),
    st.sampled_from(["minmax", *METHODS]),
)
def test_a_clip_lies_between_nothing_and_the_largest(numbers: list[float], method: str) -> None:
    values = np.array(numbers, dtype=np.float32)
    clip = clip_at(values, method)
    assert 0 <= clip <= np.abs(values).max() * (1 + 1e-6)
    assert (clip > 0) == bool(values.any())
