"""The file for ONNX Runtime's CUDA, in its own fused operators: the same scores, wherever the pairs end."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest

pytest.importorskip("torch")

from crossrt.calibration.quantization import Quantization
from crossrt.calibration.recipe import Recipe
from crossrt.engine.backends.onnxruntime_cuda import OnnxRuntimeExecutor
from crossrt.engine.batching.batch import Batch
from crossrt.engine.bundle.bundle import Bundle
from crossrt.engine.errors import BundleError
from crossrt.engine.precision import Precision
from crossrt.export.bundle.manifest import write_manifest
from crossrt.export.checkpoint.checkpoint import Checkpoint
from crossrt.export.export import export_bundle
from crossrt.export.graph.numerics import FP16, FP32, Numerics
from crossrt.export.graph.session import logits_of
from crossrt.export.graph.writer import graph_of
from crossrt.export.precision.quantization_points import quantization_points
from crossrt.export.steps import fp16

pytestmark = pytest.mark.usefixtures("portable")
FUSED = replace(FP32, fused=True)
ACTIVATIONS = ("layer.0.activation", "layer.1.activation")
PRECISIONS = [Precision.FP32, Precision.FP16]


@pytest.fixture(scope="module")
def deep(make_checkpoint: Callable[..., Path]) -> Checkpoint:
    """Three layers, two of which are for all tokens, with heads of 26."""
    return Checkpoint.read(make_checkpoint(hidden_size=52, num_hidden_layers=3))


@pytest.fixture(scope="module")
def batches() -> list[Batch]:
    """Pairs that end in different places, and one of a single token, as rows that fill a shape up are."""
    found = []
    for seed, lengths in enumerate(([3], [17, 9, 1, 17], [64, 2, 33])):
        shape = (len(lengths), max(lengths))
        ids = np.random.default_rng(seed).integers(5, 60, shape)
        mask = (np.arange(shape[1]) < np.array(lengths)[:, None]).astype(np.int64)
        found.append(
            Batch(input_ids=ids, attention_mask=mask, token_type_ids=np.zeros_like(ids), rows=np.arange(shape[0]))
        )
    return found


def fused_layers(model: onnx.ModelProto) -> list[str]:
    return fused_nodes(model, "Attention")


def fused_nodes(model: onnx.ModelProto, *operators: str) -> list[str]:
    return [node.name for node in model.graph.node if node.op_type in operators and node.domain == "com.microsoft"]


@pytest.mark.parametrize("numerics", [FP32, replace(FP32, head_multiple=8)], ids=["heads of 26", "padded to 32"])
def test_all_layers_but_that_of_cls_are_one_operator_each(
    deep: Checkpoint, batches: list[Batch], numerics: Numerics
) -> None:
    plain, fused = graph_of(deep, numerics), graph_of(deep, replace(numerics, fused=True))
    assert fused_layers(fused) == ["layer.0.context", "layer.1.context"]
    assert fused_nodes(fused, "SkipLayerNormalization") == [
        f"layer.{layer}.{part}_norm" for layer in range(3) for part in ("attention", "output")
    ]
    assert fused_nodes(fused, "BiasGelu") == [f"layer.{layer}.activation" for layer in range(3)]
    assert len(fused.graph.node) < 0.6 * len(plain.graph.node)
    np.testing.assert_allclose(logits_of(fused, batches), logits_of(plain, batches), atol=2e-5)
    unmasked = [replace(batch, attention_mask=np.ones_like(batch.attention_mask)) for batch in batches]
    assert np.abs(logits_of(fused, unmasked) - logits_of(plain, batches)).max() > 0.01, "the masks matter here"


def test_in_fp16_it_errs_no_more_than_the_plain_graph(deep: Checkpoint, batches: list[Batch]) -> None:
    exact = logits_of(graph_of(deep, FP32), batches)
    plain, fused = (logits_of(graph_of(deep, kind), batches) for kind in (FP16, replace(FP16, fused=True)))
    assert np.abs(fused - exact).max() < 2 * np.abs(plain - exact).max()


@pytest.mark.parametrize(("activation", "operator"), [("gelu_new", "FastGelu"), ("relu", "Relu")])
def test_other_activations_are_theirs(
    make_checkpoint: Callable[..., Path], batches: list[Batch], activation: str, operator: str
) -> None:
    other = Checkpoint.read(make_checkpoint(hidden_act=activation))
    fused = graph_of(other, FUSED)
    assert [node.op_type for node in fused.graph.node if node.name in ACTIVATIONS] == [operator] * 2
    np.testing.assert_allclose(logits_of(fused, batches), logits_of(graph_of(other, FP32), batches), atol=2e-5)


def test_padding_is_told_by_lengths_and_beginnings(deep: Checkpoint, batches: list[Batch]) -> None:
    """Kernels on GPUs find a pair's queries and keys by where they begin; the CPU's look at the lengths alone."""
    model = graph_of(deep, FUSED)
    model.graph.output.append(onnx.helper.make_tensor_value_info("mask.bounds", onnx.TensorProto.INT32, [None]))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch in batches:
        feeds = {field.name: getattr(batch, field.name) for field in session.get_inputs()}
        [bounds] = session.run(["mask.bounds"], feeds)
        rows, width = batch.shape
        begins = np.arange(rows + 1) * width
        np.testing.assert_array_equal(bounds, [*batch.attention_mask.sum(axis=1), *begins, *begins])


def test_nothing_is_asked_for_a_shape_that_only_the_cpu_could_tell(deep: Checkpoint) -> None:
    graph = graph_of(deep, FUSED).graph
    shapes = {node.name for node in graph.node if node.op_type == "Shape"}
    assert shapes == {"positions.shape"}, "the one that the plain graph has too"


def test_a_layer_of_two_types_stays_plain(deep: Checkpoint) -> None:
    for name in ("layer.0.attention_scores", "layer.0.query_key_value.product", "layer.0.context_heads"):
        mixed = replace(FP16, fused=True, fp32_tensors=frozenset({name}))
        assert fused_layers(graph_of(deep, mixed)) == ["layer.1.context"], name
    assert fused_layers(graph_of(deep, replace(FP16, fused=True, fp32_tensors=frozenset({"embedding_norm"})))) == [
        "layer.1.context"
    ], "what is computed from a tensor that does not fit stays FP32"
    beyond = graph_of(deep, replace(FP16, fused=True, fp32_tensors=frozenset({"layer.0.output_residual"})))
    assert len(fused_layers(beyond)) == 2
    assert len(fused_nodes(beyond, "SkipLayerNormalization")) == 5
    [norm] = [node for node in beyond.graph.node if node.name == "layer.0.output_norm"]
    assert norm.op_type == "LayerNormalization"
    wide = graph_of(deep, replace(FP16, fused=True, fp32_tensors=frozenset({"layer.2.intermediate"})))
    assert fused_nodes(wide, "BiasGelu") == ["layer.0.activation", "layer.1.activation"]


def test_what_is_in_8_bits_stays_plain(deep: Checkpoint) -> None:
    points = [point.name for point in quantization_points(deep, Recipe(parts="full"))]
    eight = Numerics(quantized={name: Quantization(scale=0.03) for name in points}, fused=True)
    found = fused_nodes(graph_of(deep, eight), "Attention", "SkipLayerNormalization", "BiasGelu")
    assert not [name for name in found if not name.startswith("layer.2.")], "of the last layer, keys and values alone"
    feed_forward = Numerics(quantized={"layer.0.output": Quantization(scale=0.03)}, fused=True)
    assert "layer.0.output_norm" not in fused_nodes(graph_of(deep, feed_forward), "SkipLayerNormalization")
    assert len(fused_layers(graph_of(deep, feed_forward))) == 2


# -- in a bundle


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    bundle, reports = export_bundle(
        Checkpoint.read(checkpoint), tmp_path_factory.mktemp("fused") / "bundle", precisions=PRECISIONS
    )
    assert [report.precision for report in reports] == ["fp32", "fp16", "fp16", "fp16"]
    assert all(reports)
    assert ["fused operators" in report.backend for report in reports] == [False, False, True, False]
    return bundle


def test_a_bundle_with_fp16_has_it_and_onnxruntime_on_a_gpu_takes_it(exported: Bundle) -> None:
    bundle = Bundle.open(exported.path, verify=True)
    assert bundle.model_file(Precision.FP16, gpu=True).name == "model_fp16.onnx", "TensorRT knows no other operators"
    assert bundle.model_file(Precision.FP16, fused=True).name == "model.fp16.fused.onnx"
    assert bundle.model_file(Precision.FP32, fused=True).name == "model.onnx"
    assert fused_layers(onnx.load(bundle.path / "model.fp16.fused.onnx")) == ["layer.0.context"]
    assert not fused_layers(onnx.load(bundle.path / "onnx/model_fp16.onnx"))
    assert (bundle.path / "parity.fp16.fused.json").exists()
    executor = OnnxRuntimeExecutor(bundle, Precision.FP16, SimpleNamespace(ordinal=0), device="cpu")  # type: ignore[arg-type]
    executor.context(0, 0).close()
    assert executor._path.name == "model.fp16.fused.onnx"


def test_it_computes_in_memory_that_is_lent_to_it(exported: Bundle, batches: list[Batch]) -> None:
    executor = OnnxRuntimeExecutor(exported, Precision.FP16, SimpleNamespace(ordinal=0), device="cpu")  # type: ignore[arg-type]
    context = executor.context(0, 0)
    plain = onnx.load(exported.path / "onnx/model_fp16.onnx")
    for batch in batches:
        logits = np.full((len(batch.rows), 1), np.nan, np.float32)
        addresses = {name: getattr(batch, name).ctypes.data for name in executor.layout.inputs} | {
            "logits": logits.ctypes.data
        }
        context.enqueue(batch.shape, addresses)
        np.testing.assert_allclose(logits, logits_of(plain, [batch]), atol=0.02)
    context.close()


def test_one_that_scores_otherwise_is_left_out(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = fp16.onnx_from_checkpoint

    def wrong(read: Checkpoint, path: Path, numerics: Numerics = FP32) -> None:
        written(read, path, numerics)
        if numerics.fused:
            model = onnx.load(path)
            [node] = [node for node in model.graph.node if node.op_type == "Attention"]
            [scale] = [attribute for attribute in node.attribute if attribute.name == "scale"]
            scale.f = 0.1
            onnx.save(model, path)

    monkeypatch.setattr(fp16, "onnx_from_checkpoint", wrong)
    bundle, reports = export_bundle(Checkpoint.read(checkpoint), tmp_path / "bundle", precisions=PRECISIONS)
    assert [bool(report) for report in reports] == [True, True, False, True]
    assert bundle.manifest.models["fp16"].fused_file is None
    assert not (bundle.path / "model.fp16.fused.onnx").exists()


def test_where_nothing_fuses_there_is_no_second_file(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where every part of a model has to stay in FP32."""
    monkeypatch.setattr(Numerics, "type_of", lambda *_: onnx.TensorProto.FLOAT)
    monkeypatch.setattr("crossrt.export.graph.encoder.EncoderGraph._fuses", lambda *_: False)
    bundle, reports = export_bundle(Checkpoint.read(checkpoint), tmp_path / "bundle", precisions=PRECISIONS)
    assert not any("fused" in report.backend for report in reports)
    assert not list(bundle.path.glob("*fused*"))


def test_a_fused_file_that_is_missing_is_named(exported: Bundle, tmp_path: Path) -> None:
    copy = Bundle.open(shutil.copytree(exported.path, tmp_path / "bundle"))
    (copy.path / "model.fp16.fused.onnx").unlink()
    with pytest.raises(BundleError, match=r"model\.fp16\.fused\.onnx is missing though the manifest lists it"):
        Bundle.open(copy.path)
    write_manifest(copy.path, copy.manifest)
    with pytest.raises(BundleError, match=r"names model\.fp16\.fused\.onnx for fp16 but does not list that file"):
        Bundle.open(copy.path)
