"""TensorRT 8.6's flags and pins, on networks that TensorRT-RTX parsed from our files: layers are real, the rest is noted."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")
trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")

from crossrt.calibration.quantization import Quantization
from crossrt.calibration.recipe import Recipe
from crossrt.engine.errors import BackendError
from crossrt.export.checkpoint.checkpoint import Checkpoint
from crossrt.export.graph.numerics import FP16, FP32, Numerics
from crossrt.export.graph.writer import graph_of
from crossrt.export.precision.quantization_points import quantization_points
from crossrt.export.tensorrt.build import ParsedNetwork
from crossrt.export.tensorrt.tensorrt8 import constrain, is_tensorrt8, takes_file_for_gpus


class Layer:
    """A parsed layer; what 8.6 would have set on it is noted."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self.precision: Any = None
        self.types: dict[int, Any] = {}
        for name in ("name", "type", "num_inputs", "num_outputs", "get_input", "get_output"):
            setattr(self, name, getattr(layer, name))

    def set_output_type(self, number: int, kind: Any) -> None:
        self.types[number] = kind


def constrained(checkpoint: Path, numerics: Numerics) -> tuple[set[str], dict[str, Layer]]:
    """Return the flags that were set and the layers by name."""
    parsed = ParsedNetwork.of(
        graph_of(Checkpoint.read(checkpoint), numerics).SerializeToString(), library="tensorrt_rtx"
    )
    layers = [Layer(parsed.network.get_layer(number)) for number in range(parsed.network.num_layers)]
    flags: set[str] = set()
    module = SimpleNamespace(
        LayerType=trt.LayerType,
        DataType=trt.DataType,
        BuilderFlag=SimpleNamespace(INT8="INT8", FP16="FP16", OBEY_PRECISION_CONSTRAINTS="OBEY"),
        PreviewFeature=SimpleNamespace(PROFILE_SHARING_0806="SHARING"),
        INormalizationLayer=type("Normalization", (Layer,), {}),
    )
    network = SimpleNamespace(num_layers=len(layers), get_layer=layers.__getitem__)
    features: dict[str, bool] = {}
    config = SimpleNamespace(
        set_flag=flags.add, set_tactic_sources=lambda sources: None, set_preview_feature=features.__setitem__
    )
    constrain(module, network, config)
    assert features == {"SHARING": True}, "every lane has a context, and all use all profiles"
    return flags, {layer.name: layer for layer in layers}  # type: ignore[attr-defined]


def eight_bits(checkpoint: Path) -> dict[str, Quantization]:
    return {
        point.name: Quantization(scale=0.05) for point in quantization_points(Checkpoint.read(checkpoint), Recipe())
    }


def test_fp32_has_no_flags(checkpoint: Path) -> None:
    flags, layers = constrained(checkpoint, FP32)
    assert flags == set()
    assert not any(layer.precision for layer in layers.values())


def test_what_is_not_8_bits_may_be_half_but_for_layer_norm_and_the_mask(checkpoint: Path) -> None:
    flags, layers = constrained(checkpoint, Numerics(quantized=eight_bits(checkpoint)))
    assert flags == {"FP16", "INT8", "OBEY"}
    pinned = {name for name, layer in layers.items() if layer.precision == trt.DataType.FLOAT}
    assert {"mask.inverted", "mask.additive"} <= pinned
    assert all(name.startswith("mask.") for name in pinned)
    norms = [layer for layer in layers.values() if layer.type == trt.LayerType.NORMALIZATION]  # type: ignore[attr-defined]
    assert len(norms) == 5
    assert all(norm.compute_precision == trt.DataType.FLOAT for norm in norms)  # type: ignore[attr-defined]


def test_what_is_float_in_a_file_of_fp16_is_pinned_and_nothing_else(checkpoint: Path) -> None:
    kept = frozenset({"layer.0.output_residual"})
    flags, layers = constrained(checkpoint, replace(FP16, fp32_tensors=kept))
    assert flags == {"FP16", "OBEY"}
    pinned = {name for name, layer in layers.items() if layer.precision == trt.DataType.FLOAT}
    assert {"layer.0.output_residual", "head.0.product", "logits"} <= pinned
    assert not {"layer.0.attention_scores", "layer.0.query_key_value.product", "layer.1.output_residual"} & pinned
    for name in pinned:
        assert set(layers[name].types.values()) == {trt.DataType.FLOAT}, name
    norms = [layer for layer in layers.values() if layer.type == trt.LayerType.NORMALIZATION]  # type: ignore[attr-defined]
    assert len(norms) == 5
    assert all(norm.compute_precision == trt.DataType.FLOAT for norm in norms)  # type: ignore[attr-defined]


def test_products_of_8_bits_are_left_to_tensorrt(checkpoint: Path) -> None:
    wide = replace(FP16, fp32_tensors=frozenset({"layer.0.intermediate.product"}), quantized=eight_bits(checkpoint))
    flags, layers = constrained(checkpoint, wide)
    assert flags == {"FP16", "INT8", "OBEY"}
    assert layers["layer.0.intermediate.product"].precision is None
    assert layers["layer.0.intermediate"].precision == trt.DataType.FLOAT, (
        "it reads the product, which may not fit FP16"
    )
    assert not any(name.endswith(("quantized", "dequantized")) for name, layer in layers.items() if layer.precision)


@pytest.mark.parametrize("numerics", [FP32, FP16])
def test_its_parser_passes_over_a_shapes_bounds(checkpoint: Path, numerics: Numerics) -> None:
    """As it did on a GPU: the whole shape came out, and the next node failed."""
    nodes = [node for node in graph_of(Checkpoint.read(checkpoint), numerics).graph.node if node.op_type == "Shape"]
    assert nodes
    assert not any(node.attribute for node in nodes)


@pytest.mark.parametrize(("version", "old"), [("8.6.0", True), ("8.6.1.6", True), ("10.13.0", False), ("11.0", False)])
def test_only_tensorrt_8_is_8(version: str, old: bool) -> None:
    assert is_tensorrt8(version) == old
    assert takes_file_for_gpus(version) != old


class Old:
    """TensorRT 8.6's names, of what is met until a model is refused: its parser has no names of nodes."""

    __version__ = "8.6.0"
    ILogger, Builder = trt.ILogger, lambda log: SimpleNamespace(create_network=lambda flags: flags)
    NetworkDefinitionCreationFlag = SimpleNamespace(EXPLICIT_BATCH=0)

    class OnnxParser:
        num_errors = 1

        def __init__(self, network: int, log: Any) -> None:
            assert network == 1 << 0, "with the batch in its shapes"

        def parse(self, onnx: bytes) -> bool:
            return False

        def get_error(self, number: int) -> Any:
            return SimpleNamespace(node=lambda: 7, desc=lambda: "no importer for Hardmax2")


def test_a_model_that_it_does_not_take_is_told_by_the_number_of_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", Old)
    with pytest.raises(BackendError, match=r"tensorrt 8\.6\.0 does not take .*\n  node 7 of the file: no importer for"):
        ParsedNetwork.of(b"a model", library="tensorrt")
