"""Attention heads in files for GPUs: padded with zeros to what TensorRT fuses, and the same scores to the last bit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("torch")
from onnx import numpy_helper

from crossrt.calibration.quantization import Quantization
from crossrt.calibration.recipe import Recipe
from crossrt.engine.batching.batch import Batch
from crossrt.export.checkpoint.checkpoint import Checkpoint
from crossrt.export.graph.numerics import FP16, FP32, Numerics
from crossrt.export.graph.session import logits_of
from crossrt.export.graph.writer import graph_of
from crossrt.export.precision.fp16_emulation import rounded_after_operators
from crossrt.export.precision.quantization_points import quantization_points

PADDED = replace(FP32, head_multiple=8)


@pytest.fixture(scope="module")
def odd(make_checkpoint: Callable[..., Path]) -> Checkpoint:
    """Two heads of 26, as TinyBERT-L-4 has twelve."""
    return Checkpoint.read(make_checkpoint(hidden_size=52))


@pytest.fixture(scope="module")
def batches() -> list[Batch]:
    found = []
    for seed, shape in enumerate(((1, 3), (4, 17), (3, 64))):
        ids = np.random.default_rng(seed).integers(5, 60, shape)
        mask = np.ones_like(ids)
        mask[-1, shape[1] // 2 + 1 :] = 0
        types = np.zeros_like(ids)
        found.append(Batch(input_ids=ids, attention_mask=mask, token_type_ids=types, rows=np.arange(shape[0])))
    return found


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_padded_heads_change_no_bit(odd: Checkpoint, batches: list[Batch]) -> None:
    plain, padded = graph_of(odd, FP32), graph_of(odd, PADDED)
    assert constants(plain)["split_heads"].tolist() == [0, 0, 2, 26]
    assert constants(padded)["split_heads"].tolist() == [0, 0, 2, 32]
    assert np.abs(logits_of(padded, batches) - logits_of(plain, batches)).max() == 0.0


def test_in_fp16_too(odd: Checkpoint, batches: list[Batch]) -> None:
    plain, padded = (
        rounded_after_operators(graph_of(odd, replace(FP16, head_multiple=1))),
        rounded_after_operators(graph_of(odd, FP16)),
    )
    assert constants(padded)["split_heads"].tolist() == [0, 0, 2, 32]
    assert np.abs(logits_of(padded, batches) - logits_of(plain, batches)).max() == 0.0


@pytest.mark.parametrize("parts", ["projections", "full"])
def test_in_8_bits_the_channels_keep_their_smoothing_shift_and_places(
    odd: Checkpoint, batches: list[Batch], parts: str
) -> None:
    quantized = {}
    for point in quantization_points(odd, Recipe(parts=parts)):
        channels = 64 if point.tensor.endswith("activation") else 52
        quantized[point.name] = Quantization(scale=0.03)
        if point.linears:
            quantized[point.name] = Quantization(
                scale=0.03,
                smoothing_factors=np.linspace(0.5, 2, channels).astype(np.float32),
                shift=np.linspace(-0.2, 0.3, channels).astype(np.float32),
                outlier_channels=(1, 30),
            )
    plain = graph_of(odd, Numerics(quantized=quantized))
    padded = graph_of(odd, Numerics(quantized=quantized, head_multiple=8))
    assert constants(padded)["layer.0.attention_output.channels"].tolist() == [1, 36], (
        "30 is the 5th of the second head"
    )
    assert constants(padded)["layer.0.attention_output.smoothing"].shape == (64,)
    assert np.abs(logits_of(padded, batches) - logits_of(plain, batches)).max() == 0.0


def test_the_scale_is_that_of_the_head_without_its_padding(odd: Checkpoint) -> None:
    weight = constants(graph_of(odd, PADDED))["layer.0.query_key_value.weight"]
    query = weight[:, :64].reshape(52, 2, 32)
    expected = (odd.tensor("layer.0.query.weight") * np.float64(26**-0.5)).astype(np.float32).T.reshape(52, 2, 26)
    np.testing.assert_array_equal(query[:, :, :26], expected)
    assert not query[:, :, 26:].any()
    output = constants(graph_of(odd, PADDED))["layer.0.attention_output.weight"].reshape(2, 32, 52)
    assert not output[:, 26:].any()


def test_heads_that_fit_are_left_as_they_are(checkpoint: Path) -> None:
    read = Checkpoint.read(checkpoint)
    assert graph_of(read, PADDED).SerializeToString() == graph_of(read, FP32).SerializeToString()
