"""Curves over batch tokens, sequence and threads, and the constants that are fitted to them."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy")

from crossrt.engine.hardware.cpus import usable_cpus
from crossrt.measurement.model_config import ModelConfig
from crossrt.speed.bench_configs import bench_configs
from crossrt.speed.fits import amdahl, polynomial, saturating
from crossrt.speed.measure import Plan
from crossrt.speed.scaling import curves_of
from crossrt.speed.texts import Texts


def noisy(values: np.ndarray, seed: int = 0) -> np.ndarray:
    return values * np.random.default_rng(seed).normal(1, 0.01, len(values))


def test_a_batch_that_costs_as_much_as_some_tokens_is_found() -> None:
    tokens = np.array([96.0, 192, 384, 768, 1536, 3072, 6144])
    words, fitted = saturating(tokens, noisy(212 * tokens / (tokens + 150)))
    most, half = float(words.split()[2]), float(words.split("(T + ")[1].split(")")[0])
    assert most == pytest.approx(212, rel=0.03)
    assert half == pytest.approx(150, rel=0.1)
    np.testing.assert_allclose(fitted, 212 * tokens / (tokens + 150), rtol=0.03)


def test_what_a_pair_a_token_and_attention_cost_is_found() -> None:
    lengths = np.array([16.0, 32, 64, 96, 128, 192, 256, 384, 512])
    seconds = 1e-3 + 5e-5 * lengths + 1e-7 * lengths**2
    words, fitted = polynomial(lengths, 1 / noisy(seconds))
    np.testing.assert_allclose(fitted, 1 / seconds, rtol=0.03)
    constants = [float(part.split()[0]) for part in words.split("= ")[1].split(" for")[0].split(" + ")]
    np.testing.assert_allclose(constants, [1e-3, 5e-5, 1e-7], rtol=0.2)


def test_a_cost_is_never_below_nothing() -> None:
    lengths = np.array([16.0, 64, 256, 512])
    words, _ = polynomial(lengths, 1 / (5e-5 * lengths - 1e-4))
    assert words.startswith("seconds a pair = 0 + ")


def test_the_work_of_one_thread_alone_is_found() -> None:
    threads = np.array([1.0, 2, 4, 8])
    words, fitted = amdahl(threads, noisy(50 / (0.1 + 0.9 / threads)))
    assert float(words.split()[2]) == pytest.approx(50, rel=0.05)
    assert float(words.split("(")[1].split()[0]) == pytest.approx(0.1, rel=0.15)
    np.testing.assert_allclose(fitted, 50 / (0.1 + 0.9 / threads), rtol=0.05)


def test_few_points_say_how_little_they_say() -> None:
    words, fitted = amdahl(np.array([1.0]), np.array([50.0]))
    assert "one point has no curve" in words
    assert fitted.tolist() == [50]
    words, fitted = amdahl(np.array([1.0, 2]), np.array([50.0, 90]))
    assert words.endswith("two points fit any such curve")
    np.testing.assert_allclose(fitted, [50, 90], rtol=1e-3)


def test_a_row_has_a_curve_along_each_axis(bundle: Path) -> None:
    (system,) = bench_configs([str(bundle)], device="cpu")
    assert isinstance(system, ModelConfig)
    tokens, sequence, threads = curves_of(system, Texts.typical(), Plan())
    assert [curve.axis for curve in (tokens, sequence, threads)] == ["tokens", "sequence", "threads"]
    assert tokens.at == [64.0 * rows for rows in (1, 2, 4, 8, 16, 32, 64)], "the model has positions for 64 tokens"
    assert sequence.at == [16, 32, 64]
    assert threads.at[0] == 1
    assert threads.at[-1] == usable_cpus()
    for curve in (tokens, sequence, threads):
        assert len(curve.pairs_per_s) == len(curve.fitted) == len(curve.at)
        assert min(curve.fitted) > 0
    assert tokens.fitted[-1] > tokens.fitted[0], "a larger batch is faster"
