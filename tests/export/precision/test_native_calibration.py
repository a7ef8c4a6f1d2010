"""What calibration decides for native INT8 weights: their rounding, and the balance of channels by the score's gradients."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file

from crossrt.calibration.token_moments import TokenMoments
from crossrt.engine.bundle.native_weights import padded
from crossrt.engine.precision import Precision
from crossrt.export.checkpoint.checkpoint import Checkpoint
from crossrt.export.checkpoint.reference import Reference
from crossrt.export.precision import native_weights, weight_rounding
from crossrt.export.precision.native_weights import gradient_sites, native_from_checkpoint
from crossrt.export.precision.rotation import gains, inverse_rotated, rotated, rotated_moments
from crossrt.export.precision.score_gradients import TOKENS, GradientSample, score_gradients
from crossrt.export.precision.smoothing import Floats, ScoreVariance, Smoothing, optimized_smoothing
from crossrt.export.precision.weight_rounding import rounded
from tests.export.graph.test_modernbert import write_modernbert

DEMO = Path(__file__).resolve().parents[3] / "demo" / "checkpoint"


def correlated(tokens: int, channels: int) -> Floats:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(tokens, channels // 4)) @ rng.normal(size=(channels // 4, channels))
    return np.asarray(rows + 0.1 * rng.normal(size=rows.shape))


def token_moments(rows: Floats, weight: Floats) -> Floats:
    moments = TokenMoments(rows.shape[1])
    moments.add(rows.astype(np.float32), weight)
    return moments.of(np.zeros(rows.shape[1]), np.ones(rows.shape[1]))


def test_moments_are_of_tokens_that_are_shifted_scaled_and_divided_by_the_norm_of_their_outputs() -> None:
    rng = np.random.default_rng(0)
    rows, weight = (rng.normal(size=shape).astype(np.float32) for shape in ((300, 24), (16, 24)))
    shift, multipliers = rng.normal(size=24), rng.uniform(0.5, 2, 24)
    moments = TokenMoments(24)
    for part in (rows[:200], rows[:0], rows[200:]):
        moments.add(part, weight)
    squares = np.square(rows.astype(float) @ weight.T).sum(axis=1)
    divided = (rows - shift) * multipliers / np.sqrt(squares + 0.1 * np.median(squares[:200]))[:, None]
    np.testing.assert_allclose(moments.of(shift, multipliers), divided.T @ divided, rtol=1e-4, atol=1e-4)


def test_rounding_by_the_inputs_makes_up_for_its_errors() -> None:
    rows, weight = correlated(2000, 160), np.random.default_rng(1).normal(size=(48, 160))
    moments = token_moments(rows[:1000], weight)
    errors = []
    for integers, scale in (rounded(weight), rounded(weight, moments)):
        assert np.abs(integers.astype(int)).max() == 127
        errors.append(np.square(rows[1000:] @ (integers * scale[:, None] - weight).T).mean())
    assert errors[1] < 0.5 * errors[0]


def test_rounding_by_the_scores_gradients_makes_errors_of_outputs_cancel_one_another() -> None:
    rng = np.random.default_rng(1)
    rows, weight = correlated(2000, 160), rng.normal(size=(48, 160))
    weight[5] = 0
    gradients = rng.normal(size=(2000, 6)) @ rng.normal(size=(6, 48)) + 0.1 * rng.normal(size=(2000, 48))
    moments = token_moments(rows[:1000], weight)
    errors = []
    for by in (None, gradients[:1000].T @ gradients[:1000]):
        integers, scale = rounded(weight, moments, by)
        assert integers.dtype == np.int8
        assert integers.min() >= -127
        assert not integers[5].any()
        outputs = rows[1000:] @ (integers * scale[:, None] - weight).T
        errors.append(np.square((outputs * gradients[1000:]).sum(axis=1)).mean())
    assert errors[1] < 0.5 * errors[0]


def test_weights_are_rounded_again_one_at_a_time_where_the_score_gains_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Computed again by the definition: in each column, all changes of one weight are tried and the best is taken."""
    monkeypatch.setattr(weight_rounding, "BLOCK", 4)  # fewer than the columns, which a change has to reach all the same
    rng = np.random.default_rng(3)
    rows, gradients = (rng.normal(size=(50, 3)) @ rng.normal(size=(3, size)) for size in (10, 7))
    moments, by_outputs = rows.T @ rows + np.eye(10), gradients.T @ gradients + np.eye(7)
    weight = rng.uniform(-127, 127, size=(7, 10))

    def error(integers: Floats) -> float:
        lost = weight - integers
        return float(np.trace(lost @ moments @ lost.T @ by_outputs))

    expected = np.rint(weight)
    first = error(expected)
    for _ in range(weight_rounding.SWEEPS):
        for column in range(10):
            while True:
                tried = []
                for output in range(7):
                    for value in range(-127, 128):
                        changed = expected.copy()
                        changed[output, column] = value
                        tried.append((error(changed), output, value))
                best, output, value = min(tried)
                if best >= error(expected) - 1e-9 * first:
                    break
                expected[output, column] = value
    found = np.rint(weight)
    weight_rounding._descend(weight, found, moments, by_outputs)
    np.testing.assert_array_equal(found, expected)
    assert error(found) < 0.5 * first


def test_moments_around_the_mean_are_right_where_the_tokens_hardly_differ() -> None:
    """Attention that is nearly uniform gives all tokens nearly the same context."""
    rng = np.random.default_rng(0)
    mean, weight = rng.normal(size=96), rng.normal(size=(32, 96))
    rows = (mean + 1e-4 * rng.normal(size=(3000, 8)) @ rng.normal(size=(8, 96))).astype(np.float32)
    norms = np.square(rows.astype(np.float64) @ weight.T).sum(axis=1)
    divided = (rows - mean) / np.sqrt(norms + 0.1 * np.median(norms[:1000]))[:, None]
    moments = TokenMoments(96)
    for part in np.split(rows, 3):
        moments.add(part, weight)
    expected = divided.T @ divided
    found = moments.of(mean, np.ones(96))
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())
    nearest, compensated = (rounded(weight, each) for each in (None, found))
    errors = [
        np.square((rows - mean) @ (integers * scale[:, None] - weight).T).sum()
        for integers, scale in (nearest, compensated)
    ]
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize(("least", "nearest"), [(-0.05, False), (-0.5, False), (-1e4, True), (np.nan, True), (0, True)])
def test_moments_that_are_not_positive_definite_are_damped_or_left_out(least: float, nearest: bool) -> None:
    """Eigenvalues from `least` to 1; 0 stands for moments that are all 0."""
    rng = np.random.default_rng(4)
    weight = rng.normal(size=(24, 64))
    vectors = np.linalg.qr(rng.normal(size=(64, 64)))[0]
    moments = (vectors * np.linspace(least, 1, 64)) @ vectors.T if least else np.zeros((64, 64))
    integers, _ = rounded(weight, moments)
    assert np.abs(integers.astype(int)).max() == 127
    assert np.array_equal(integers, rounded(weight)[0]) == nearest


@pytest.mark.parametrize("seed", range(10))
def test_no_weight_leaves_the_range_of_int8_however_often_it_is_changed(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, gradients = (rng.normal(size=(50, 2)) @ rng.normal(size=(2, size)) for size in (10, 40))
    by_outputs = gradients.T @ gradients + 0.1 * np.eye(40)
    exact = rng.uniform(126, 127, size=(40, 10))
    for sign in (1, -1):
        found = np.full((40, 10), sign * 127.0)
        weight_rounding._descend(sign * exact, found, rows.T @ rows + np.eye(10), by_outputs)
        assert np.abs(found).min() < 127
        assert np.abs(found).max() == 127


@pytest.mark.parametrize("bad", [np.zeros((32, 32)), np.full((32, 32), np.nan)], ids=["zeros", "NaN"])
def test_gradients_without_information_change_nothing(bad: Floats) -> None:
    rows, weight = correlated(500, 64), np.random.default_rng(1).normal(size=(32, 64))
    moments = token_moments(rows, weight)
    assert np.array_equal(rounded(weight, moments, bad)[0], rounded(weight, moments)[0])


@pytest.mark.parametrize("inputs", [np.zeros((100, 32)), np.ones((100, 32))], ids=["zeros", "equal"])
def test_inputs_without_information_round_to_about_the_nearest(inputs: Floats) -> None:
    weight = np.random.default_rng(1).normal(size=(32, 32))
    weight[3] = 0
    integers, scale = rounded(weight, token_moments(inputs, weight))
    assert not integers[3].any()
    assert np.abs(inputs @ (integers * scale[:, None] - weight).T).max() < 0.5


def quantized(rows: Floats) -> Floats:
    low, high = rows.min(1, keepdims=True).clip(max=0), rows.max(1, keepdims=True).clip(min=0)
    step = (high - low) / 254
    return np.asarray(np.rint(rows / step) * step)


@pytest.mark.parametrize("width", [32, 64, 96, 128, 224, 384])
def test_weights_make_up_for_the_rotation_of_what_they_read(width: int) -> None:
    rng = np.random.default_rng(width)
    rows, weight = rng.normal(size=(5, width)), rng.normal(size=(32, width))
    turned = rotated(torch.tensor(rows)).numpy()
    np.testing.assert_allclose(turned @ inverse_rotated(weight).T, rows @ weight.T, atol=1e-12)
    np.testing.assert_allclose(rotated_moments(rows.T @ rows), turned.T @ turned, atol=1e-10)
    np.testing.assert_allclose((turned**2 / gains(width).numpy()).sum(), (rows**2).sum())


def test_a_rotation_is_of_eight_channels_that_are_16_apart() -> None:
    one = torch.zeros(1, 256)
    one[0, 128 + 5] = 8
    expected = np.zeros(256)
    expected[128 + 5 :: 16] = 8
    np.testing.assert_array_equal(rotated(one)[0].numpy(), expected)
    one[0, 128 + 5], one[0, 128 + 5 + 7 * 16] = 0, 8
    expected[128 + 5 :: 16] = [8, -8, -8, 8, -8, 8, 8, -8]  # the last row of Sylvester's matrix
    np.testing.assert_array_equal(rotated(one)[0].numpy(), expected)


def test_a_large_channel_costs_less_where_rows_are_rotated() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200, 128))
    rows[:, 3] *= 20
    weight = rng.normal(size=(32, 128))
    plain = quantized(rows) @ weight.T - rows @ weight.T
    turned = rotated(torch.tensor(rows)).numpy()
    error = quantized(turned) @ inverse_rotated(weight).T - turned @ inverse_rotated(weight).T
    assert error.std() < 0.5 * plain.std()


@pytest.mark.parametrize("cls_is_exact", [False, True])
@pytest.mark.parametrize(("channels", "rotates"), [(40, False), (40, True), (128, True), (312, True)])
def test_the_scores_variance_and_its_gradients_are_those_of_its_formula(
    channels: int, rotates: bool, cls_is_exact: bool
) -> None:
    rng = torch.Generator().manual_seed(channels)
    width, outputs, tokens = padded(channels), 24, 60

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng)

    is_cls = (torch.arange(tokens) % 9 == 0).float()
    weight = torch.rand(tokens, generator=rng)
    rows, gradients, by_outputs = random(tokens, channels) + 1, random(tokens, channels), random(tokens, outputs)
    sample = GradientSample(rows, gradients, by_outputs, weight, is_cls, torch.zeros(outputs, outputs))
    weights, start = random(outputs, channels).numpy(), random(channels).numpy()
    variance = ScoreVariance(sample, weights, start, cls_is_exact=cls_is_exact, rotates=rotates)
    multipliers, shift = (0.5 * random(channels)).exp().requires_grad_(), (0.3 * random(channels)).requires_grad_()

    def turned(values: torch.Tensor) -> torch.Tensor:
        values = torch.nn.functional.pad(values, (0, width - channels))
        return rotated(values) if rotates else values

    gain = gains(width) if rotates else torch.ones(width)
    read = turned((rows - torch.tensor(start) - shift) * multipliers)
    ranges = read.amax(1).clamp(min=0) - read.amin(1).clamp(max=0)
    counted = weight * (1 - is_cls) if cls_is_exact else weight
    by_activations = counted * (ranges / 254) ** 2 * ((gradients / multipliers) ** 2 / gain[:channels]).sum(1)
    steps = (turned(torch.tensor(weights) / multipliers) / gain).abs().amax(1) / 127
    by_weights = weight * ((by_outputs * steps) ** 2).sum(1) * (read**2).sum(1)
    expected = (by_activations + by_weights).sum()
    found = variance(multipliers, shift)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    for ours, plain in zip(
        torch.autograd.grad(found, (multipliers, shift)),
        torch.autograd.grad(expected, (multipliers, shift)),
        strict=True,
    ):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5 * float(plain.abs().max()))


@pytest.mark.parametrize("rotates", [False, True])
def test_channels_are_balanced_so_that_the_score_moves_less(rotates: bool) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(800, 64)) * rng.uniform(0.2, 2, 64) + rng.normal(0, 3, 64)
    weights = rng.normal(size=(32, 64))
    output_gradients = rng.normal(size=(800, 32)) * rng.uniform(0, 1, 32) ** 4
    gradients = output_gradients @ weights
    tensors = (torch.tensor(part, dtype=torch.float32) for part in (rows, gradients, output_gradients))
    sample = GradientSample(*tensors, torch.ones(800), torch.zeros(800), torch.zeros(32, 32))
    first = Smoothing(np.ones(64), np.zeros(64))

    def error(balance: Smoothing) -> float:
        read, weight = (rows - balance.shift) * balance.multipliers, weights / balance.multipliers
        if rotates:
            read, weight = rotated(torch.tensor(read)).numpy(), inverse_rotated(weight)
        integers, scale = rounded(weight)
        moved = quantized(read) @ (integers * scale[:, None]).T - read @ weight.T
        return float(np.std((moved * output_gradients).sum(1)))

    # A rotation has taken a part of the error away before anything is balanced.
    assert error(optimized_smoothing(first, sample, weights, rotates=rotates)) < (0.7 if rotates else 0.6) * error(
        first
    )
    only_scaled = optimized_smoothing(first, sample, weights, shifts=False, rotates=rotates)
    assert not only_scaled.shift.any()
    assert error(only_scaled) < (0.95 if rotates else 0.9) * error(first)


def test_gradients_are_the_scores_derivatives() -> None:
    checkpoint, pair = Checkpoint.read(DEMO), ("play chess", "gnuchess")
    sites = gradient_sites(checkpoint)
    tensors = ["context", "activation", "attention_norm"]
    expected = [f"layer.{number}.{tensor}" for number in range(2) for tensor in tensors]
    assert sorted(sites) == sorted(["embedding_norm", "layer.0.output_norm", *expected])
    sample = score_gradients(checkpoint, sites, [pair], max_length=160).samples["layer.0.attention_norm"]
    assert len(sample.rows) <= TOKENS + 1
    assert sample.is_cls.tolist() == [1, *[0] * (len(sample.rows) - 1)]
    reference = Reference(checkpoint)
    linear = checkpoint.module_of("layer.0.intermediate", dict(reference.model.named_modules()))
    bias, direction = linear.bias.detach().clone(), torch.tensor(np.random.default_rng(0).normal(size=len(linear.bias)))
    logits = []
    for step in (-1e-3, 1e-3):
        linear.bias.data = (bias + step * direction).float()
        logits.append(float(reference.logits([pair], max_length=160)[0, 0]))
    slope = (logits[1] - logits[0]) / 2e-3
    total = (sample.weight[:, None] * sample.output_gradients).sum(0) @ direction.float()
    assert float(total) == pytest.approx(slope, rel=0.02)
    np.testing.assert_allclose(sample.gradients, sample.output_gradients @ linear.weight.detach(), rtol=1e-4, atol=1e-6)
    # All tokens of so short a pair are in the sample.
    squares = (sample.rows @ linear.weight.detach().T).square().sum(1)
    scaled = sample.output_gradients * (squares + 0.1 * squares.median()).sqrt()[:, None]
    assert bool((sample.weight == 1).all())
    np.testing.assert_allclose(sample.output_moments, scaled.T @ scaled, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("labels", [2, 3])
def test_gradients_of_several_labels_are_those_of_the_margin_that_ranks(labels: int, tmp_path: Path) -> None:
    """The logits of two labels have the demo's logit as their difference; a third label has a logit far below both."""
    path = shutil.copytree(DEMO, tmp_path / "labels")
    tensors = load_file(path / "model.safetensors")
    weight, bias = tensors["classifier.weight"], tensors["classifier.bias"]
    shared = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    rows, biases = [shared - weight / 2, shared + weight / 2], [-bias / 2, bias / 2]
    if labels == 3:
        rows, biases = [*rows, shared - weight / 2], [*biases, -bias / 2 - 100]
    tensors |= {"classifier.weight": torch.cat(rows), "classifier.bias": torch.cat(biases)}
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((path / "config.json").read_text())
    names = {str(number): f"LABEL_{number}" for number in range(labels)}
    config |= {"id2label": names, "label2id": {name: int(number) for number, name in names.items()}}
    (path / "config.json").write_text(json.dumps(config))
    pairs = [("play chess", "gnuchess is a program that plays chess"), ("mail reader", "a program for electronic mail")]
    several, one = Checkpoint.read(path).with_relevant_label(1), Checkpoint.read(DEMO)
    found = score_gradients(several, gradient_sites(several), pairs, max_length=160).samples
    for site, expected in score_gradients(one, gradient_sites(one), pairs, max_length=160).samples.items():
        torch.testing.assert_close(found[site].gradients, expected.gradients, rtol=1e-3, atol=1e-5)
        moments = expected.output_moments
        torch.testing.assert_close(
            found[site].output_moments, moments, rtol=1e-3, atol=1e-5 * float(moments.abs().max())
        )


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_gradients_are_brought_into_the_order_and_the_units_of_the_weights(
    architecture: str, make_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If v is the score's gradient by a layer's outputs W x, then v^T W is the one by x, however the rows of W are laid out."""
    if architecture == "bert":  # heads of 16 channels, which are padded to 32
        checkpoint = Checkpoint.read(make_checkpoint(hidden_size=48, num_attention_heads=3, num_hidden_layers=3))
    else:
        checkpoint = Checkpoint.read(write_modernbert(tmp_path / "modernbert"))
    rng = np.random.default_rng(0)
    samples, expected, given = {}, [], []
    for name, linears in gradient_sites(checkpoint).items():
        if architecture == "modernbert" and linears[0].endswith("query"):  # one module in PyTorch
            linears = tuple(linears[0].replace("query", part) for part in ("query", "key", "value"))
        weight = np.concatenate([checkpoint.tensor(f"{linear}.weight") for linear in linears])
        outputs, inputs = weight.shape
        v = rng.normal(size=outputs)
        tensors = (rng.normal(size=(20, channels)) for channels in (inputs, inputs, outputs))
        parts = [*tensors, np.ones(20), np.zeros(20), np.outer(v, v)]
        samples[name] = GradientSample(*(torch.tensor(part, dtype=torch.float32) for part in parts))
        by_input = np.abs(v @ weight)
        expected.append(_direction(by_input[4:] if name.endswith(".activation") else by_input))

    def balance(start: Smoothing, *_: Any, **__: Any) -> Smoothing:
        return Smoothing(np.full(len(start.shift), rng.uniform(0.5, 2)), start.shift)

    def keep(weight: Floats, moments: Floats | None, gradients: Floats | None) -> tuple[Any, Floats]:
        if gradients is not None:
            given.append(_direction(np.sqrt(np.diag(weight.T @ gradients @ weight))))
        return rounded(weight, moments, gradients)

    monkeypatch.setattr(native_weights, "optimized_smoothing", balance)
    monkeypatch.setattr(native_weights, "rounded", keep)
    monkeypatch.setattr(native_weights, "inverse_rotated", lambda weight: weight)
    monkeypatch.setattr(native_weights._ArrayBuilder, "_outlier_channels", lambda *_: np.arange(4))
    native_from_checkpoint(checkpoint, tmp_path / "file", Precision.INT8, gradients=samples)
    assert len(given) == 4 * checkpoint.dimensions.layers - (
        architecture == "bert"
    )  # the last query is rounded to nearest
    for found in given:
        assert any(found.shape == each.shape and np.allclose(found, each, atol=1e-4) for each in expected)


def _direction(values: Floats) -> Floats:
    """The values in order, without zeros, which are padding, and of norm 1."""
    present = np.sort(values[values > 1e-9])
    return np.asarray(present / np.linalg.norm(present))
