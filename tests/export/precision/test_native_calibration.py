"""What calibration decides for native INT8 weights: their rounding, and the balance of channels by the score's gradients."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from crossrt.export.checkpoint.checkpoint import Checkpoint
from crossrt.export.checkpoint.reference import Reference
from crossrt.export.precision.balance import Balance, Floats, balanced
from crossrt.export.precision.native_weights import gradient_sites
from crossrt.export.precision.score_gradients import TOKENS, GradientSample, score_gradients
from crossrt.export.precision.weight_rounding import rounded, token_moments

DEMO = Path(__file__).resolve().parents[3] / "demo" / "checkpoint"


def correlated(tokens: int, channels: int) -> Floats:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(tokens, channels // 4)) @ rng.normal(size=(channels // 4, channels))
    return np.asarray(rows + 0.1 * rng.normal(size=rows.shape))


def test_rounding_by_the_inputs_makes_up_for_its_errors() -> None:
    rows, weight = correlated(2000, 160), np.random.default_rng(1).normal(size=(48, 160))
    moments = token_moments(rows[:1000], weight)
    errors = []
    for integers, scale in (rounded(weight), rounded(weight, moments)):
        assert np.abs(integers.astype(int)).max() == 127
        errors.append(np.square(rows[1000:] @ (integers * scale[:, None] - weight).T).mean())
    assert errors[1] < 0.5 * errors[0]


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


def test_channels_are_balanced_so_that_the_score_moves_less() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(800, 64)) * rng.uniform(0.2, 2, 64) + rng.normal(0, 3, 64)
    weights = rng.normal(size=(32, 64))
    output_gradients = rng.normal(size=(800, 32)) * rng.uniform(0, 1, 32) ** 4
    gradients = output_gradients @ weights
    tensors = (torch.tensor(part, dtype=torch.float32) for part in (rows, gradients, output_gradients))
    sample = GradientSample(*tensors, torch.ones(800), torch.zeros(800))
    first = Balance(np.ones(64), np.zeros(64))

    def error(balance: Balance) -> float:
        read = (rows - balance.shift) * balance.factors
        integers, scale = rounded(weights / balance.factors)
        moved = quantized(read) @ (integers * scale[:, None]).T - read @ (weights / balance.factors).T
        return float(np.std((moved * output_gradients).sum(1)))

    assert error(balanced(first, sample, weights, cls_is_exact=False)) < 0.6 * error(first)


def test_gradients_are_the_scores_derivatives() -> None:
    checkpoint, pair = Checkpoint.read(DEMO), ("play chess", "gnuchess")
    sites = gradient_sites(checkpoint)
    assert list(sites) == ["embedding_norm", "layer.0.attention_norm", "layer.0.output_norm", "layer.1.attention_norm"]
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
