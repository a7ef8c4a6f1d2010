"""INT8 graphs: 8 bits are 8 bits as executed, on CPUs and for GPUs, and a pair's score is its own."""

import json
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import onnx
import onnxruntime
import transformers
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from crossrt import Bundle, CrossEncoder
from crossrt.__main__ import main
from crossrt.calibration.calibration_set import CalibrationSet
from crossrt.calibration.judging_set import JudgingSet
from crossrt.calibration.quantization import Quantization
from crossrt.calibration.recipe import Recipe
from crossrt.engine.batching.batch import Batch
from crossrt.engine.bundle.manifest import ONNX_FILES, BundleModel
from crossrt.engine.bundle.profiles import profiles_for
from crossrt.engine.errors import ParityError
from crossrt.engine.kernels.support import why_not_native
from crossrt.engine.precision import Precision
from crossrt.engine.text.pair_tokenizer import PairTokenizer
from crossrt.export import export
from crossrt.export.checkpoint.checkpoint import Checkpoint
from crossrt.export.export import export_bundle
from crossrt.export.graph.numerics import FP16, Numerics
from crossrt.export.graph.session import feeds_of, session_of
from crossrt.export.graph.writer import graph_of, onnx_from_checkpoint
from crossrt.export.parity.judge import ParityJudge
from crossrt.export.precision import observation as activations
from crossrt.export.precision.fp16 import Fp16Choice
from crossrt.export.precision.multiply_adds import counted_multiply_adds
from crossrt.export.precision.observation import observed
from crossrt.export.precision.quantization_points import quantization_points
from crossrt.export.precision.tolerance import TOLERANCE
from crossrt.export.steps.context import ExportContext
from crossrt.export.steps.step import StepResult
from crossrt.export.tensorrt import engines
from tests.calibration.quantized_product import quantized_product
from tests.export.tensorrt.simulated_machine import install_simulated_machine

DEMO = Path(__file__).resolve().parents[3] / "demo"
NATIVE = () if why_not_native(Precision.INT8) else ("model.int8.native",)
needs_kernels = pytest.mark.skipif(
    bool(why_not_native(Precision.INT8)), reason=why_not_native(Precision.INT8) or "they run"
)
LIMITS = TOLERANCE[Precision.INT8]


def held_in_8_bits(checkpoint: Checkpoint, recipe: Recipe, **fields: object) -> Numerics:
    """Every point of the recipe at one scale."""
    return Numerics(
        quantized={p.name: Quantization(scale=0.05, **fields) for p in quantization_points(checkpoint, recipe)}
    )  # type: ignore[arg-type]


def some_batch(rows: int = 4, length: int = 16) -> Batch:
    ids = np.random.default_rng(0).integers(5, 60, (rows, length))
    return Batch(
        input_ids=ids, attention_mask=np.ones_like(ids), token_type_ids=np.zeros_like(ids), rows=np.arange(rows)
    )


# -- the file


def test_activations_are_signed_and_symmetric_and_weights_have_a_scale_for_each_output(exported: Bundle) -> None:
    graph = onnx.load(exported.path / "onnx/model_quantized.onnx").graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    makers = {node.output[0]: node for node in graph.node}
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = constants[node.input[2]]
            assert zero.dtype == np.int8
            assert not zero.any()
    products = {node.name: node for node in graph.node if node.op_type == "MatMul"}
    weights = [node for name, node in products.items() if name == "layer.0.intermediate.product"]
    assert len(weights) == 1
    assert [makers[name].op_type for name in weights[0].input] == ["DequantizeLinear"] * 2
    assert constants["layer.0.intermediate.weight_scale"].shape == (512,)
    assert constants["layer.0.intermediate.weight_int8"].shape == (128, 512)
    quantized = {makers[name].name for node in graph.node for name in node.input if name in makers}
    assert not {name for name in quantized if "quantized" in name and name.startswith(("embed", "head", "logits"))}


# -- the file for GPUs


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    found = {value.name: value.type.tensor_type.elem_type for value in inferred.value_info}
    return found | {tensor.name: tensor.data_type for tensor in inferred.initializer}


def test_gpus_get_the_same_8_bits_with_the_rest_in_fp16(exported: Bundle) -> None:
    assert exported.model_file(Precision.INT8) == exported.path / "onnx/model_quantized.onnx"
    ours, theirs = (onnx.load(exported.model_file(Precision.INT8, gpu=gpu)) for gpu in (False, True))
    onnx.checker.check_model(theirs, full_check=True)
    for model, kind in ((ours, TensorProto.FLOAT), (theirs, TensorProto.FLOAT16)):
        types = types_of(model)
        inner = [n for n in model.graph.node if n.op_type in ("MatMul", "Softmax") and n.name.startswith("layer.1")]
        assert {types[node.output[0]] for node in inner} == {kind}
        for node in model.graph.node:
            if node.op_type == "DequantizeLinear":
                assert types[node.output[0]] == types[node.input[1]]
                assert types[node.output[0]] == kind or node.name.startswith("layer.0.query"), (
                    "its embeddings stay FP32"
                )
    integers = [
        {t.name: t.raw_data for t in model.graph.initializer if t.data_type == TensorProto.INT8}
        for model in (ours, theirs)
    ]
    assert integers[0] == integers[1]
    report = json.loads((exported.path / "parity.int8.gpu.json").read_text())
    assert report["passed"]
    assert "rounded after every operator, the rest in FP16" in report["backend"]
    assert report["ranking"]["top10_overlap"] >= 0.96


def test_a_file_for_gpus_that_fails_publishes_nothing_or_is_left_out(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, wanted = Checkpoint.read(checkpoint), [Precision.FP16, Precision.INT8]
    _, (passed, *_) = export_bundle(read, tmp_path / "a")
    numerics = {"fp16": FP16, "int8": held_in_8_bits(read, Recipe())}

    def written(name: str, context: ExportContext) -> StepResult:
        context.fp16 = Fp16Choice(numerics=FP16, fp32_tensors=(), error=0.0)
        context.int8 = SimpleNamespace(numerics=numerics["int8"])  # type: ignore[assignment]
        model = BundleModel(file=ONNX_FILES[name])
        context.builder.write(model.file, lambda path: onnx_from_checkpoint(read, path, numerics[name]))
        return StepResult(report=passed, model=model)

    # Weights of no meaning have no order to keep, so INT8 is not judged here, nor are the native kernels.
    steps = [step for step in export.STEPS if step.name in ("fp32", "fp16", "fp16.fused", "int8", "int8.gpu")]
    replaced = (replace(step, run=partial(written, step.name)) if step.name in numerics else step for step in steps)
    monkeypatch.setattr(export, "STEPS", tuple(replaced))
    monkeypatch.setattr(ParityJudge, "report_of_graph", lambda *_: replace(passed, not_finite=3))
    with pytest.raises(ParityError, match="was not published: 3 logits are NaN or Inf"):
        export_bundle(read, tmp_path / "b", precisions=wanted)
    assert not (tmp_path / "b").exists()
    made, reports = export_bundle(read, tmp_path / "b", precisions=wanted, keep_going=True)
    assert [bool(report) for report in reports] == [True, True, False, True, False], (
        "FP16 by fused operators is left out too"
    )
    assert made.manifest.models["int8"].gpu_file is None
    assert not (made.path / "model.int8.gpu.onnx").exists()
    assert not json.loads((made.path / "parity.int8.gpu.json").read_text())["passed"]


@pytest.mark.parametrize("parts", ["projections", "full"])
def test_what_overflows_fp16_does_not_pass_through_it_on_its_way_to_8_bits(checkpoint: Path, parts: str) -> None:
    read = Checkpoint.read(checkpoint)
    plain = replace(FP16, quantized=held_in_8_bits(read, Recipe(parts=parts)).quantized)
    wide = replace(plain, fp32_tensors=frozenset({"layer.0.attention_norm", "layer.0.output.product"}))
    for numerics, kind in ((plain, TensorProto.FLOAT16), (wide, TensorProto.FLOAT)):
        graph = graph_of(read, numerics)
        onnx.checker.check_model(graph, full_check=True)
        types = types_of(graph)
        for name in ("layer.0.intermediate", "layer.0.output"):
            belonging = [f"{name}.{part}" for part in ("dequantized", "weight_dequantized", "product")]
            assert {types[each] for each in belonging} == {kind}, "no Cast inside what is to run in 8 bits"
        if parts == "full":
            assert types["layer.0.output_residual.skip.dequantized"] == kind
        assert types["layer.0.query_key_value.product"] == TensorProto.FLOAT16


def test_no_scale_is_rounded_to_nothing(checkpoint: Path) -> None:
    read = Checkpoint.read(checkpoint)
    read.tensor("layer.0.intermediate.weight")[3] *= 1e-8
    graph = graph_of(read, replace(FP16, quantized=held_in_8_bits(read, Recipe()).quantized))
    for tensor in graph.graph.initializer:
        if "scale" in tensor.name:
            assert numpy_helper.to_array(tensor).min() >= np.float16(6.1e-5), tensor.name


def test_tensorrt_builds_the_file_for_gpus(exported: Bundle) -> None:
    """With all that the search for ranges has put around its products."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    graph = onnx.load(exported.model_file(Precision.INT8, gpu=True)).graph
    parts = {node.name.rpartition(".")[2] for node in graph.node}
    assert {"smoothed", "shifted", "kept", "kept_product"} <= parts, "this model has none of them"
    from crossrt.export.tensorrt.build import BuildOptions, engine_from_onnx

    plan = engine_from_onnx(
        exported.model_file(Precision.INT8, gpu=True),
        profiles_for(160),
        library="tensorrt_rtx",
        options=BuildOptions(optimization_level=0),
    )
    assert len(plan) > 1e6


# -- engines of it, on a GPU in memory


def test_export_builds_engines_of_all_that_was_exported(
    exported: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From the command's words on; the export, which has tests of its own and takes a minute, is one that was made before."""

    machine = install_simulated_machine(monkeypatch, tmp_path / "cache")

    def export_bundle(checkpoint: Any, out: Path, *, precisions: Any, **_: Any) -> Any:
        assert precisions == [Precision.FP16, Precision.INT8]
        return Bundle.open(shutil.copytree(exported.path, out)), ()

    monkeypatch.setattr("crossrt.export.export.export_bundle", export_bundle)
    # The largest batches are small, since a CPU computes them here.
    monkeypatch.setattr(engines, "profiles_for", lambda longest, **_: profiles_for(longest, tokens=512))
    words = ["export", str(DEMO / "checkpoint"), str(tmp_path / "out"), "--precision", "fp16,int8"]
    monkeypatch.setattr(sys, "argv", ["crossrt", *words, "--tensorrt", "--optimization-level", "1"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (None, 0), capsys.readouterr().err
    assert machine["built"] == ["model_fp16.onnx", "model.int8.gpu.onnx"]
    made = Bundle.open(tmp_path / "out", verify=True)
    assert [engine.precision for engine in made.manifest.engines] == ["int8", "fp16"]
    assert {engine.options["optimization_level"] for engine in made.manifest.engines} == {1}
    said = capsys.readouterr().out
    assert said.count(".engine: passed, max |difference|") == 2
    assert "top-10 overlap" in said
    for precision in ("fp16", "int8"):
        with CrossEncoder(
            made.path, device="cuda", backend="tensorrt", precision=precision, trust_engines=True
        ) as model:
            assert model.predict(("play chess", "a chess program")) > model.predict(
                ("play chess", "fonts of all kinds")
            )


# -- what is computed


@pytest.mark.parametrize("kept", [(), (1, 30)])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("smooth", [False, True])
def test_the_graph_computes_what_the_search_compared(
    checkpoint: Path, kept: tuple[int, ...], smooth: bool, shifted: bool
) -> None:
    read = Checkpoint.read(checkpoint)
    shift = np.linspace(-0.4, 0.7, 32).astype(np.float32) if shifted else None
    smoothing = np.linspace(0.5, 2, 32).astype(np.float32) if smooth else None
    quantization = Quantization(scale=0.03, smoothing_factors=smoothing, shift=shift, outlier_channels=kept)
    graph = graph_of(read, Numerics(quantized={"layer.0.intermediate": quantization}))
    names = ["layer.0.attention_norm", "layer.0.intermediate"]
    graph.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    session, batch = session_of(graph), some_batch()
    before, after = (array.reshape(-1, array.shape[-1]) for array in session.run(names, feeds_of(session, batch)))
    expected = quantized_product(quantization, before, read.tensor("layer.0.intermediate.weight"))
    np.testing.assert_allclose(after, expected + read.tensor("layer.0.intermediate.bias"), atol=2e-5)
    exact = before @ read.tensor("layer.0.intermediate.weight").T + read.tensor("layer.0.intermediate.bias")
    assert np.abs(after - exact).max() > 1e-3, "8 bits leave a trace"


def test_multiply_adds_are_counted_as_executed(checkpoint: Path) -> None:
    read, batch = Checkpoint.read(checkpoint), some_batch(length=48)
    assert counted_multiply_adds(graph_of(read), batch).share == 0
    found = counted_multiply_adds(graph_of(read, held_in_8_bits(read, Recipe())), batch)
    assert found.share > 0.97
    assert all(name.split(".")[0] in ("layer", "head") or "head" in name for name in found.floating)
    # 16 x 32 x 32 of 16 tokens' worth in each; by hand for the first layer of 32 x 32 and 32 x 64, and keys and values.
    tokens, hidden, wide = 4 * 48, 32, 64
    assert found.eight_bit == tokens * (4 * hidden * hidden + 2 * hidden * wide + 2 * hidden * hidden)
    feed_forward = counted_multiply_adds(graph_of(read, held_in_8_bits(read, Recipe(parts="ffn"))), batch)
    assert feed_forward.eight_bit == tokens * 2 * hidden * wide


def test_a_product_that_only_looks_like_8_bits_is_counted_as_floating(checkpoint: Path) -> None:
    read, batch = Checkpoint.read(checkpoint), some_batch()
    graph = graph_of(read, held_in_8_bits(read, Recipe(parts="ffn")))
    before = counted_multiply_adds(graph, batch)
    # A second reader of the dequantized tensor: the file says as much of 8 bits as before, ONNX Runtime thinks otherwise.
    graph.graph.node.append(helper.make_node("Neg", ["layer.0.intermediate.dequantized"], ["negative"]))
    graph.graph.output.append(helper.make_tensor_value_info("negative", TensorProto.FLOAT, None))
    after = counted_multiply_adds(graph, batch)
    assert after.total == before.total
    assert after.eight_bit < before.eight_bit
    assert any("layer.0.intermediate" in name for name in after.floating)


def test_the_full_recipe_holds_attention_and_residuals_in_8_bits(checkpoint: Path) -> None:
    read = Checkpoint.read(checkpoint)
    graph = graph_of(read, held_in_8_bits(read, Recipe(parts="full"))).graph
    makers = {node.output[0]: node.op_type for node in graph.node}
    inputs = {node.name: [makers.get(name) for name in node.input] for node in graph.node}
    for name in ("attention_scores", "context_heads", "attention_residual", "output_residual"):
        assert inputs[f"layer.0.{name}"] == ["DequantizeLinear"] * 2, name
    assert "DequantizeLinear" not in inputs["layer.0.attention_norm"] + inputs["layer.0.activation"]


@pytest.mark.parametrize("kind", ["electra", "distilbert"])
def test_other_architectures_run_in_8_bits(kind: str, checkpoint: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 140, "max_position_embeddings": 64, "num_labels": 1}
    model: transformers.PreTrainedModel
    if kind == "electra":  # its embeddings are narrower than its layers
        config = transformers.ElectraConfig(
            embedding_size=16, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, **sizes
        )
        model = transformers.ElectraForSequenceClassification(config)
    else:
        config = transformers.DistilBertConfig(dim=32, n_layers=2, n_heads=2, hidden_dim=64, **sizes)
        model = transformers.DistilBertForSequenceClassification(config)
    model.save_pretrained(tmp_path / "m")
    read = Checkpoint.read(tmp_path / "m")
    assert counted_multiply_adds(graph_of(read, held_in_8_bits(read, Recipe())), some_batch(length=48)).share > 0.9


def test_what_was_seen_is_what_pytorch_holds_and_its_size_does_not_grow(
    checkpoint: Path, pairs: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Checkpoint.read(checkpoint)
    encoder = PairTokenizer.from_file(checkpoint / "tokenizer.json", max_length=64)
    points = quantization_points(read, Recipe())
    seen = observed(read, points, encoder.encode(pairs))
    model = transformers.BertModel.from_pretrained(checkpoint).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    with torch.inference_mode():
        states = [
            model(**tokenizer(*pair, return_tensors="pt", truncation=True), output_hidden_states=True).hidden_states
            for pair in pairs
        ]
    for number, name in enumerate(("embedding_norm", "layer.0.output_norm")):
        tokens = torch.cat([state[number][0] for state in states]).numpy()
        np.testing.assert_allclose(seen[name].low, tokens.min(axis=0), atol=1e-5)
        np.testing.assert_allclose(seen[name].high, tokens.max(axis=0), atol=1e-5)
        distances = np.abs(seen[name].rows[:, None] - tokens[None]).max(axis=2).min(axis=1)
        assert distances.max() < 1e-4, "every row is a token's"
    monkeypatch.setattr(activations, "MAX_ROWS", 10)
    fewer = observed(read, points, encoder.encode(pairs * 3))
    assert {len(activation.rows) for activation in fewer.values()} == {10}
    np.testing.assert_allclose(fewer["embedding_norm"].high, seen["embedding_norm"].high, atol=1e-5)


def test_a_batch_of_several_pairs_has_a_limit_of_memory(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Checkpoint.read(checkpoint)
    encoder = PairTokenizer.from_file(checkpoint / "tokenizer.json", max_length=64)
    encoded = encoder.encode([("river", "the river is long")] * 20 + [("river", "the river is long and wide")] * 3)
    short, long = sorted({int(length) for length in encoded.lengths})
    shapes = []

    def noted(session: onnxruntime.InferenceSession, batch: Batch) -> Any:
        shapes.append(batch.input_ids.shape)
        return feeds_of(session, batch)

    monkeypatch.setattr(activations, "feeds_of", noted)
    points = quantization_points(read, Recipe())
    seen = observed(read, points, encoded)
    assert shapes == [(3, long), (16, short), (4, short)]
    shapes.clear()
    per_token = 4 * sum(array.rows.shape[1] for array in seen.values())
    monkeypatch.setattr(activations, "BATCH_BYTES", 2 * short * per_token)
    fewer = observed(read, points, encoded)
    assert shapes == [(1, long)] * 3 + [(2, short)] * 10
    for name, stats in seen.items():
        np.testing.assert_allclose(stats.high, fewer[name].high, atol=1e-5)


# -- a pair's score is its own


def invariant(session: onnxruntime.InferenceSession, encoder: PairTokenizer) -> bool:
    """Whether a pair scores bit for bit the same beside any neighbours of its length."""
    words = "chess game engine network library python driver font kernel tool".split()
    rng = np.random.default_rng(0)
    pairs = [("play chess", " ".join(rng.choice(words, 12))) for _ in range(200)]
    encoded = encoder.encode(pairs)
    rows = np.flatnonzero(encoded.lengths == np.bincount(encoded.lengths).argmax())
    ids = np.stack([encoded.ids[encoded.offsets[row] : encoded.offsets[row + 1]] for row in rows]).astype(np.int64)
    kinds = np.stack([encoded.type_ids[encoded.offsets[row] : encoded.offsets[row + 1]] for row in rows])

    def score(chosen: list[int]) -> np.ndarray:
        feeds = {
            "input_ids": ids[chosen],
            "attention_mask": np.ones_like(ids[chosen]),
            "token_type_ids": kinds[chosen].astype(np.int64),
        }
        return np.asarray(session.run(["logits"], feeds)[0])

    return all(
        np.array_equal(score([0, *others])[0], score([0, *others[::-1]])[0])
        and np.array_equal(score([0, *others])[0], score([0, 1, 2, 3])[0])
        for others in ([4, 5, 6], [9, 11, 10], [7, 3, 1])
    )


def test_neighbours_change_no_bit_and_a_dynamic_control_fails(
    exported: Bundle, encoder: PairTokenizer, tmp_path: Path
) -> None:
    assert invariant(session_of(onnx.load(exported.path / "onnx/model_quantized.onnx")), encoder)
    quantize_dynamic(exported.path / "onnx/model.onnx", tmp_path / "dynamic.onnx", weight_type=QuantType.QInt8)
    assert not invariant(session_of(onnx.load(tmp_path / "dynamic.onnx")), encoder)


def test_padding_moves_a_score_by_less_than_a_tenth_of_the_int8_error(exported: Bundle) -> None:
    calibration = CalibrationSet.builtin()
    judging = JudgingSet.pooled(calibration.pairs, source="s")
    pairs = judging.pairs[:200]
    with CrossEncoder(exported.path, precision="int8") as model, CrossEncoder(exported.path) as full:
        alone = np.concatenate([model.logits([pair]) for pair in pairs])[:, 0]
        together = model.logits(pairs, batch_size=64)[:, 0]
        error = np.abs(model.logits(pairs) - full.logits(pairs)).max()
    assert np.abs(alone - together).max() < error / 10
    for start in range(0, 200, 50):
        rows = slice(start, start + 50)
        assert set(np.argsort(-alone[rows])[:10]) == set(np.argsort(-together[rows])[:10])
