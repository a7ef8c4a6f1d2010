"""Fused attention: read from what TensorRT tells of an engine, and its form found in the networks that it parses."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

pytest.importorskip("torch")
pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")

from crossrt.calibration.quantization import Quantization
from crossrt.calibration.recipe import Recipe
from crossrt.engine.bundle.profiles import profiles_for
from crossrt.engine.errors import BackendError
from crossrt.export.checkpoint.checkpoint import Checkpoint
from crossrt.export.graph.numerics import FP16, FP32, Numerics
from crossrt.export.graph.writer import graph_of
from crossrt.export.precision.quantization_points import quantization_points
from crossrt.export.tensorrt.attention import UNMEASURED, Attention, attention_in, fused_attention, keep_unfused
from crossrt.export.tensorrt.build import BuildOptions, ParsedNetwork, engine_from_onnx


def attention(model: onnx.ModelProto) -> tuple[Attention, ...]:
    parsed = ParsedNetwork.of(model.SerializeToString(), library="tensorrt_rtx")
    return attention_in(parsed.network, parsed.tensorrt)


def quantized(checkpoint: Checkpoint, parts: str) -> Numerics:
    points = quantization_points(checkpoint, Recipe(parts=parts))
    return replace(FP16, quantized={point.name: Quantization(scale=0.05) for point in points})


def test_each_layer_has_the_form_that_fuses_with_heads_of_a_multiple_of_8(make_checkpoint: Any) -> None:
    odd = Checkpoint.read(make_checkpoint(hidden_size=52, num_hidden_layers=3))
    for numerics, size in ((FP32, 26), (FP16, 32), (quantized(odd, "projections"), 32)):
        found = attention(graph_of(odd, numerics))
        assert [each.name for each in found] == [f"layer.{number}.attention_weights" for number in range(3)]
        assert {(each.head_size, each.quantized) for each in found} == {(size, False)}


def test_the_full_recipe_has_its_operands_from_8_bits_but_in_the_last_layer(checkpoint: Path) -> None:
    read = Checkpoint.read(checkpoint)
    assert [each.quantized for each in attention(graph_of(read, quantized(read, "full")))] == [True, False]


@pytest.mark.parametrize("operator", ["Mul", "Sub"])
def test_another_form_is_not_taken_for_attention(checkpoint: Path, operator: str) -> None:
    graph = graph_of(Checkpoint.read(checkpoint), FP16)
    next(node for node in graph.graph.node if node.name == "layer.0.attention_masked").op_type = operator
    assert [each.name for each in attention(graph)] == ["layer.1.attention_weights"]


@pytest.mark.parametrize("numerics", [FP32, FP16])
def test_unfused_attention_has_every_softmax_among_the_outputs(checkpoint: Path, numerics: Numerics) -> None:
    model = graph_of(Checkpoint.read(checkpoint), numerics).SerializeToString()
    parsed = ParsedNetwork.of(model, library="tensorrt_rtx")
    keep_unfused(parsed.network, parsed.tensorrt)
    outputs = [parsed.network.get_output(number) for number in range(parsed.network.num_outputs)]
    dtype = parsed.tensorrt.DataType.HALF if numerics is FP16 else parsed.tensorrt.DataType.FLOAT
    assert [(output.name, output.dtype) for output in outputs[1:]] == [
        (f"layer.{number}.attention_weights_output", dtype) for number in (0, 1)
    ]
    # Rows, heads, queries and keys: what `max_bytes` takes them for.
    assert [tuple(output.shape) for output in outputs[1:]] == [(-1, 2, -1, -1)] * 2
    plans = [
        engine_from_onnx(
            model,
            profiles_for(64),
            library="tensorrt_rtx",
            options=BuildOptions(optimization_level=0, unfused_attention=unfused),
        )
        for unfused in (False, True)
    ]
    plain, unfused = (plan.count(b"layer.0.attention_weights_output") for plan in plans)
    assert unfused > plain, "as the name of an output"


def test_a_softmax_of_unknown_size_is_not_kept_apart(checkpoint: Path) -> None:
    """An output that is larger than was thought would be written over what lies behind it."""
    model = graph_of(Checkpoint.read(checkpoint), FP32)
    flattened = onnx.ModelProto.FromString(model.SerializeToString())
    for node in flattened.graph.node:
        if node.op_type == "Softmax":  # as TensorRT's parser makes of the one of opset 12 and before
            source, result = node.input[0], node.output[0]
            node.input[0], node.output[0] = f"{source}.flat", f"{result}.flat"
            flat = onnx.helper.make_node("Flatten", [source], [f"{source}.flat"], axis=3)
            shape = onnx.helper.make_node("Shape", [source], [f"{source}.shape"])
            back = onnx.helper.make_node("Reshape", [f"{result}.flat", f"{source}.shape"], [result])
            break
    nodes = list(flattened.graph.node)
    at = nodes.index(node)
    nodes[at : at + 1] = [flat, shape, node, back]
    del flattened.graph.node[:]
    flattened.graph.node.extend(nodes)
    for graph, said in (
        (flattened, r"the shape \(-1, -1\), and --unfused-attention knows"),
        (without_softmax(model), "no softmax"),
    ):
        parsed = ParsedNetwork.of(graph.SerializeToString(), library="tensorrt_rtx")
        with pytest.raises(BackendError, match=said):
            keep_unfused(parsed.network, parsed.tensorrt)


def without_softmax(model: onnx.ModelProto) -> onnx.ModelProto:
    other = onnx.ModelProto.FromString(model.SerializeToString())
    for node in other.graph.node:
        if node.op_type == "Softmax":
            node.op_type = "Identity"
            del node.attribute[:]
    return other


def information(*layers: Any) -> str:
    return json.dumps({"Layers": list(layers), "Bindings": ["input_ids", "logits"]})


def kernel(name: str, *nodes: str, tactic: str = "") -> dict[str, str]:
    return {
        "Name": name,
        "LayerType": "kgen",
        "TacticName": tactic or name,
        "Metadata": "\x1f".join(f"[ONNX Layer: {node}]" for node in nodes),
    }


def test_kernels_are_counted_by_the_layers_that_they_compute() -> None:
    gemm = kernel("sm80_xmma_gemm_f16f16", "layer.0.query_key_value.product")
    fused = [
        kernel("_gemm_mha_v2_myl0_17", "layer.0.attention_scores", "layer.0.context_heads"),
        kernel("_gemv_mha_v1_myl0_30", "layer.1.attention_scores"),
    ]
    assert fused_attention(information(gemm, *fused), 2) == "2 of 2 attention layers fused"
    assert fused_attention(information(gemm, *fused), 6) == "2 of 6 attention layers fused"
    assert fused_attention(information(gemm), 2) == "0 of 2 attention layers fused"
    assert fused_attention(information(gemm, fused[0], fused[0]), 2) == "1 of 2 attention layers fused"
    plain = kernel("layer.0 in one", tactic="fmha_v2_flash_attention_fp16_64_32_S_128_sm90")
    assert fused_attention(information(gemm, plain), 2) == "1 of 2 attention layers fused"
    assert fused_attention(information("gemm", "_gemm_mha_v2_myl0_1", "_gemm_mha_v2_myl0_2"), 2).startswith("2 of 2")


def test_of_several_profiles_the_one_with_the_least_counts() -> None:
    first = [kernel(f"_gemm_mha_v2_{n}", f"layer.{n}.attention_scores") for n in (0, 1)]
    second = [
        kernel("_gemm_mha_v2_0 [profile 1]", "layer.0.attention_scores"),
        kernel("gemm [profile 1]", "layer.1.attention_scores"),
    ]
    assert fused_attention(information(*first, *second), 2) == "1 of 2 attention layers fused"


@pytest.mark.parametrize(
    "said",
    [
        "",
        "no JSON",
        "[]",
        json.dumps({"Layers": []}),
        information({"Name": "{ForeignNode[layer.0.query...logits]}", "LayerType": "Myelin"}),
    ],
)
def test_what_is_not_told_is_unmeasured(said: str) -> None:
    assert fused_attention(said, 6) == UNMEASURED
