"""How one tensor is held in 8 bits: what is exact, what is clipped, and what the search finds."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossrt.calibration.quantization import Quantization
from crossrt.calibration.quantization_search import TokenErrorMeasure, choose_quantization
from crossrt.calibration.ranges import LEVELS, METHODS, clip_at
from crossrt.calibration.recipe import Recipe
from crossrt.calibration.tensor_stats import TensorStats
from crossrt.engine.errors import OptionError
from tests.calibration.quantized_product import quantized_product


def activation(*, outlier: float = 1.0, channels: int = 24, seed: int = 0) -> TensorStats:
    rows = np.random.default_rng(seed).standard_normal((600, channels)).astype(np.float32)
    rows[:, 3] *= outlier
    return TensorStats(rows=rows, low=rows.min(axis=0), high=rows.max(axis=0))


def weight(*, outputs: int = 16, channels: int = 24, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((outputs, channels)).astype(np.float32)


def test_integers_are_exact_and_what_lies_outside_is_clipped() -> None:
    values = np.array([[-3.0, 0.0, 127.0, 400.0, -400.0]], dtype=np.float32)
    np.testing.assert_array_equal(Quantization(scale=1.0).rounded(values), [[-3, 0, 127, 127, -128]])


@given(seed=st.integers(0, 1000), smooth=st.booleans(), moved=st.booleans(), kept=st.sampled_from([(), (0,), (1, 5)]))
@settings(max_examples=40, deadline=None)
def test_smoothing_shift_and_kept_channels_change_nothing_but_the_rounding(
    seed: int, smooth: bool, moved: bool, kept: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((50, 8)).astype(np.float32)
    matrix = rng.standard_normal((6, 8)).astype(np.float32)
    smoothing = rng.uniform(0.5, 2, 8).astype(np.float32) if smooth else None
    shift = rng.uniform(-1, 1, 8).astype(np.float32) if moved else None
    quantization = Quantization(scale=10 / LEVELS, smoothing_factors=smoothing, shift=shift, outlier_channels=kept)
    exact = rows @ matrix.T
    step = 10 / LEVELS * np.abs(matrix * (1 if smoothing is None else smoothing)).sum(axis=1).max()
    assert np.abs(quantized_product(quantization, rows, matrix) - exact).max() < step


def test_weights_have_a_scale_for_each_output_and_zeros_for_kept_channels() -> None:
    matrix = weight()
    matrix[2] = 0
    integers, scales = Quantization(scale=1.0, outlier_channels=(5,)).weight(matrix)
    assert integers.dtype == np.int8
    assert not integers[:, 5].any()
    assert not integers[2].any()
    assert np.isfinite(scales).all()
    assert np.abs(integers[[0, 1, 3]]).max(axis=1).tolist() == [LEVELS] * 3
    rest = np.delete(np.arange(24), 5)
    assert np.abs(integers * scales[:, None] - matrix)[:, rest].max() <= scales.max() / 2 * 1.001


def test_an_outlying_channel_is_smoothed_or_kept_by_token_and_not_by_minmax() -> None:
    seen, matrix = activation(outlier=100), weight()
    plain = choose_quantization(seen, [matrix], Recipe(method="minmax"))
    found = choose_quantization(seen, [matrix], Recipe())
    assert plain.smoothing_factors is None
    assert plain.outlier_channels == ()
    assert found.smoothing_factors is not None or 3 in found.outlier_channels
    error = TokenErrorMeasure(seen, [matrix])
    assert error(found, [found.scale])[0] < error(plain, [plain.scale])[0] / 10


def test_a_tensor_of_one_sign_is_shifted_to_use_both() -> None:
    seen, matrix = activation(channels=256), weight(channels=256)
    rows = np.abs(seen.rows)
    positive = TensorStats(rows=rows, low=rows.min(axis=0), high=rows.max(axis=0))
    found = choose_quantization(positive, [matrix], Recipe())
    assert found.shift is not None
    assert found.shift.min() > 0.5
    assert found.scale < choose_quantization(positive, [matrix], Recipe(method="minmax")).scale * 0.7


def test_an_even_tensor_is_held_in_the_cheapest_form() -> None:
    rows = np.random.default_rng(0).uniform(-1, 1, (600, 256)).astype(np.float32)
    even = TensorStats(rows=rows, low=rows.min(axis=0), high=rows.max(axis=0))
    found = choose_quantization(even, [np.sign(weight(channels=256))], Recipe())
    assert found.smoothing_factors is None
    assert found.shift is None
    assert found.outlier_channels == ()


def test_the_error_of_a_token_counts_by_its_own_norm() -> None:
    seen, matrix = activation(), weight()
    loud = replace(seen, rows=np.concatenate([seen.rows, seen.rows[:1] * 1000]))
    quantization = Quantization(scale=4 / LEVELS)
    quiet, with_loud = (TokenErrorMeasure(one, [matrix])(quantization, [4 / LEVELS])[0] for one in (seen, loud))
    assert with_loud < quiet + 2 / len(loud.rows), "one clipped token of 601 cannot weigh more than itself"


@pytest.mark.parametrize("kept", [(), (1, 5)])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("smooth", [False, True])
def test_the_error_is_that_of_the_products_of_all_layers(smooth: bool, shifted: bool, kept: tuple[int, ...]) -> None:
    seen, matrices = activation(), [weight(), weight(outputs=7, seed=2)]
    form = Quantization(
        scale=1.0,
        smoothing_factors=np.linspace(0.5, 2, 24).astype(np.float32) if smooth else None,
        shift=np.linspace(-0.4, 0.7, 24).astype(np.float32) if shifted else None,
        outlier_channels=kept,
    )
    expected = []
    for scale in (4 / LEVELS, 2 / LEVELS):
        errors = []
        for matrix in matrices:
            exact = seen.rows @ matrix.T
            norms = (exact**2).sum(axis=1)
            found = quantized_product(replace(form, scale=scale), seen.rows, matrix)
            errors.append((((found - exact) ** 2).sum(axis=1) / (norms + 0.1 * np.median(norms))).mean())
        expected.append(np.mean(errors))
    assert TokenErrorMeasure(seen, matrices)(form, [4 / LEVELS, 2 / LEVELS]) == pytest.approx(expected, rel=1e-4)


def test_a_given_smoothing_is_taken() -> None:
    seen, matrix = activation(outlier=30), weight()
    found = choose_quantization(seen, [matrix], Recipe(method="minmax", smoothing=0.5))
    assert found.smoothing_factors is not None
    greatest, columns = seen.magnitude, np.abs(matrix).max(axis=0)
    expected = np.sqrt(greatest / columns)  # SmoothQuant's equation 4 at one half
    np.testing.assert_allclose(found.smoothing_factors / found.smoothing_factors[0], expected / expected[0], rtol=1e-4)
    assert choose_quantization(seen, [matrix], Recipe(smoothing=0.0)).smoothing_factors is None


@pytest.mark.parametrize("method", METHODS)
def test_the_range_is_that_of_the_smoothed_tensor(method: str) -> None:
    seen, matrix = activation(outlier=30), weight()
    found = choose_quantization(seen, [matrix], Recipe(method=method, smoothing=0.5))
    of_minmax = choose_quantization(seen, [matrix], Recipe(method="minmax", smoothing=0.5))
    assert found.smoothing_factors is not None
    np.testing.assert_array_equal(found.smoothing_factors, of_minmax.smoothing_factors)
    assert found.scale == pytest.approx(clip_at(seen.rows / found.smoothing_factors, method) / LEVELS)


def test_the_range_covers_tokens_that_are_not_in_the_sample() -> None:
    seen = activation()
    rare = replace(seen, low=seen.low * 7)
    assert choose_quantization(rare, [], Recipe(method="minmax")).scale == pytest.approx(
        float(-rare.low.min()) / LEVELS
    )


def test_operands_without_weights_take_the_least_squared_error() -> None:
    seen = activation(outlier=30)
    assert choose_quantization(seen, [], Recipe()).scale == choose_quantization(seen, [], Recipe(method="mse")).scale


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"parts": "all"}, "unknown recipe 'all'; one of projections, full, ffn"),
        ({"method": "guess"}, "unknown calibration method 'guess'; one of token, minmax, percentile, entropy, mse"),
        ({"smoothing": 1.5}, "between 0, none, and 1, all"),
    ],
)
def test_what_is_no_recipe_is_named(fields: dict, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Recipe(**fields)
