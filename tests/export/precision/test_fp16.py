"""FP16: half the weight, no overflow, and the scores that a machine which rounds after every operator gives."""

import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import onnx
import transformers
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from crossrt import Bundle, CrossEncoder
from crossrt.__main__ import main
from crossrt.calibration.calibration_set import CalibrationSet
from crossrt.engine.batching.batch import Batch
from crossrt.engine.bundle.manifest import ONNX_FILES
from crossrt.engine.errors import CheckpointError, OptionError
from crossrt.engine.precision import Precision
from crossrt.engine.text.pair_tokenizer import PairTokenizer
from crossrt.export.checkpoint.checkpoint import Checkpoint
from crossrt.export.export import export_bundle
from crossrt.export.graph.numerics import FP16, FP16_MAX, FP32
from crossrt.export.graph.session import batches_of, logits_of, session_of
from crossrt.export.graph.writer import graph_of
from crossrt.export.parity.pairs import builtin_pairs
from crossrt.export.precision.fp16 import choose_fp16
from crossrt.export.precision.fp16_emulation import rounded_after_operators
from crossrt.export.precision.magnitudes import magnitudes
from crossrt.export.precision.tolerance import TOLERANCE

pytestmark = pytest.mark.usefixtures("portable")
LIMIT = TOLERANCE[Precision.FP16].max_abs


def batches_for(checkpoint: Path) -> list[Batch]:
    encoder = PairTokenizer.from_file(checkpoint / "tokenizer.json", max_length=64)
    return list(batches_of(encoder, builtin_pairs(64), pad_id=0))


def scaled(checkpoint: Path, tmp_path: Path, factor: float, part: str = "bert.encoder.layer.0.output.dense") -> Path:
    """A copy whose first layer's feed-forward output is `factor` times as large; LayerNorm then undoes most of it."""
    copy = Path(shutil.copytree(checkpoint, tmp_path / f"scaled-{factor:g}"))
    model = transformers.BertForSequenceClassification.from_pretrained(copy)
    with torch.no_grad():
        model.get_submodule(part).weight.mul_(factor)
    model.save_pretrained(copy)
    return copy


@pytest.fixture(scope="module")
def half_bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("half") / "bundle"
    bundle, reports = export_bundle(Checkpoint.read(checkpoint), out, precisions=[Precision.FP32, Precision.FP16])
    assert all(reports)
    return bundle


def test_weights_are_half_the_size_and_the_borders_unchanged(half_bundle: Bundle) -> None:
    full, half = (onnx.load(half_bundle.path / ONNX_FILES[name]).graph for name in ("fp32", "fp16"))

    def weights(graph: onnx.GraphProto) -> int:
        return sum(len(tensor.raw_data) for tensor in graph.initializer if not tensor.name.startswith("head."))

    assert weights(half) == pytest.approx(weights(full) / 2, rel=0.02)
    assert [value.SerializeToString() for value in half.input] == [value.SerializeToString() for value in full.input]
    assert [value.SerializeToString() for value in half.output] == [value.SerializeToString() for value in full.output]


def test_every_operator_has_one_floating_point_type(half_bundle: Bundle) -> None:
    model = onnx.shape_inference.infer_shapes(onnx.load(half_bundle.path / "onnx/model_fp16.onnx"), strict_mode=True)
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    types |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    floats = {TensorProto.FLOAT, TensorProto.FLOAT16}
    for node in model.graph.node:
        if node.op_type != "Cast":
            assert len({types.get(name) for name in (*node.input, *node.output)} & floats) <= 1, node.name
    heads = {
        types[node.output[0]] for node in model.graph.node if node.name.startswith("head.") and node.output[0] in types
    }
    assert TensorProto.FLOAT in heads
    assert TensorProto.FLOAT16 not in heads - {types.get("head.cls")}
    layers = [
        node for node in model.graph.node if node.op_type in ("MatMul", "Softmax") and node.name.startswith("layer")
    ]
    assert {types[node.output[0]] for node in layers} == {TensorProto.FLOAT16}


def test_the_mask_ends_where_fp16_does(half_bundle: Bundle) -> None:
    graph = onnx.load(half_bundle.path / "onnx/model_fp16.onnx").graph
    lowest = next(tensor for tensor in graph.initializer if tensor.name.startswith("lowest"))
    assert onnx.numpy_helper.to_array(lowest) == -FP16_MAX


def test_the_rounded_graph_computes_as_onnx_own_fp16_evaluator(checkpoint: Path) -> None:
    read = Checkpoint.read(checkpoint)
    half = graph_of(read, FP16)
    ids = np.array([[2, 9, 14, 3, 20, 31, 40, 3], [2, 11, 3, 50, 60, 3, 0, 0]])
    batch = Batch(
        input_ids=ids,
        attention_mask=(ids > 0).astype(np.int64),
        token_type_ids=np.zeros_like(ids),
        rows=np.arange(2),
    )
    feeds = {name: getattr(batch, name) for name in ("input_ids", "attention_mask", "token_type_ids")}
    judge = ReferenceEvaluator(half).run(["logits"], feeds)[0]
    exact, ours = logits_of(graph_of(read, FP32), [batch]), logits_of(rounded_after_operators(half), [batch])
    error = np.abs(judge - exact).max()
    assert 0 < error < LIMIT
    assert np.abs(ours - judge).max() < error, "the two agree better with each other than with FP32"
    assert np.abs(ours - exact).max() < 3 * error


def test_no_length_gives_nan_alone_or_padded(checkpoint: Path) -> None:
    graph = rounded_after_operators(graph_of(Checkpoint.read(checkpoint), FP16))
    batches = []
    for length in range(1, 65):
        ids = np.full((2, 64 if length % 2 else length), 0)
        ids[:, :length] = np.arange(length) % 50 + 5
        mask = (ids > 0).astype(np.int64)
        batches.append(Batch(input_ids=ids, attention_mask=mask, token_type_ids=np.zeros_like(ids), rows=np.arange(2)))
    assert np.isfinite(logits_of(graph, batches)).all()


def test_magnitudes_are_those_of_pytorchs_hidden_states(checkpoint: Path) -> None:
    batches = batches_for(checkpoint)
    found = magnitudes(graph_of(Checkpoint.read(checkpoint)), batches)
    model = transformers.BertModel.from_pretrained(checkpoint).eval()
    largest = [0.0, 0.0]
    for batch in batches:
        with torch.inference_mode():
            states = model(
                torch.from_numpy(batch.input_ids),
                torch.from_numpy(batch.attention_mask),
                torch.from_numpy(batch.token_type_ids),
                output_hidden_states=True,
            ).hidden_states
        largest = [max(value, float(state.abs().max())) for value, state in zip(largest, states, strict=False)]
    assert found["embedding_norm"] == pytest.approx(largest[0], rel=1e-5)
    assert found["layer.0.output_norm"] == pytest.approx(largest[1], rel=1e-5)


def test_magnitudes_are_computed_where_their_tensors_are_and_not_at_the_end(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the tensors of all layers are in memory at once: 12 GB for XLM-R large and 16 long pairs."""
    sessions = []

    def profiled(model: onnx.ModelProto) -> Any:
        sessions.append(session_of(model, profile=tmp_path / "run"))
        return sessions[-1]

    monkeypatch.setattr("crossrt.export.precision.magnitudes.session_of", profiled)
    magnitudes(graph_of(Checkpoint.read(checkpoint)), batches_for(checkpoint)[:1])
    events = json.loads(Path(sessions[0].end_profiling()).read_text(encoding="utf-8"))
    ran = [event["args"]["op_name"] for event in events if event.get("cat") == "Node"]
    products = [index for index, name in enumerate(ran) if name in ("MatMul", "FusedMatMul")]
    maxima = [index for index, name in enumerate(ran) if name == "ReduceMax"]
    assert len(maxima) > len(products) > 2
    assert all(any(first < index < second for index in maxima) for first, second in pairwise(products))


def test_a_tensor_that_overflows_stays_in_fp32(checkpoint: Path, tmp_path: Path) -> None:
    wild = scaled(checkpoint, tmp_path, 4e4)
    read, batches = Checkpoint.read(wild), batches_for(wild)
    plain = graph_of(read, FP16)
    assert not np.isfinite(logits_of(rounded_after_operators(plain), batches)).all()
    half = choose_fp16(read, batches, max_abs=LIMIT)
    kept = {tensor.name: tensor.reason for tensor in half.fp32_tensors}
    assert "layer.0.output_residual" in kept
    assert "65,504" in kept["layer.0.output_residual"]
    assert "layer.1.output_residual" not in kept
    assert half.error < LIMIT
    assert np.isfinite(logits_of(rounded_after_operators(graph_of(read, half.numerics)), batches)).all()


def test_the_margin_keeps_what_comes_near(checkpoint: Path, tmp_path: Path) -> None:
    near = scaled(checkpoint, tmp_path, 6e3)
    read, batches = Checkpoint.read(near), batches_for(near)
    largest = magnitudes(graph_of(read), batches)["layer.0.output_residual"]
    assert FP16_MAX / 4 < largest < FP16_MAX, "the case that this test is about"
    kept = {tensor.name for tensor in choose_fp16(read, batches, max_abs=LIMIT).fp32_tensors}
    assert "layer.0.output_residual" in kept


def test_a_part_that_loses_too_much_goes_back_to_fp32(checkpoint: Path) -> None:
    read, batches = Checkpoint.read(checkpoint), batches_for(checkpoint)
    free = choose_fp16(read, batches, max_abs=1.0)
    assert not free.fp32_tensors
    strict = choose_fp16(read, batches, max_abs=free.error)
    assert strict.fp32_tensors
    assert strict.error <= free.error / 2


def test_a_model_that_overflows_in_fp32_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    wide = scaled(checkpoint, tmp_path, 1e30, "bert.encoder.layer.0.intermediate.dense")
    broken = scaled(wide, tmp_path, 1e29)
    with pytest.raises(CheckpointError, match="the FP32 model itself gives NaN or Inf"):
        choose_fp16(Checkpoint.read(broken), batches_for(broken), max_abs=LIMIT)


def test_the_bundle_says_what_stayed_in_fp32_and_on_what_that_was_decided(checkpoint: Path, tmp_path: Path) -> None:
    wild = Checkpoint.read(scaled(checkpoint, tmp_path, 4e4))
    calibration = CalibrationSet.sample([("a query", "a passage"), ("b", "c")], source="mine.tsv")
    bundle, reports = export_bundle(wild, tmp_path / "b", precisions=[Precision.FP16], calibration=calibration)
    assert [report.precision for report in reports] == ["fp32", "fp16", "fp16", "fp16"]
    assert all("rounded after every operator" in report.backend for report in reports[1:3])
    numerics = json.loads((bundle.path / "manifest.json").read_text())["models"]["fp16"]["numerics"]
    assert "layer.0.output_residual" in {kept["name"] for kept in numerics["float32"]}
    assert numerics["chosen_on"] == {"source": "mine.tsv", "seed": 0, "sha256": calibration.sha256}


def test_the_order_of_long_lists_has_a_limit_of_its_own(checkpoint: Path, tmp_path: Path) -> None:
    passages = [f"the cell number {number} of {number * 7} is alive" for number in range(20)]
    pairs = [("what is a cell", passage) for passage in passages]
    _, (full,) = export_bundle(Checkpoint.read(checkpoint), tmp_path / "b", pairs=pairs[:19])
    assert full.list_kendall_tau is None, "the built-in lists are too short to judge an order"
    _, (full,) = export_bundle(Checkpoint.read(checkpoint), tmp_path / "b", pairs=pairs, force=True)
    assert full.list_kendall_tau is not None
    assert full.list_kendall_tau > 0.99
    half = replace(full, tolerance=TOLERANCE[Precision.FP16], list_kendall_tau=0.9989)
    assert not half
    assert half.failures == ["Kendall tau is 0.9989 over lists of at least 20, 0.999 is needed"]
    assert replace(half, list_kendall_tau=0.9991)


def test_fp16_runs_only_when_it_is_asked_for(half_bundle: Bundle) -> None:
    pair = ("what is a cell", "the cell is a unit of life")
    with CrossEncoder(half_bundle.path) as full, CrossEncoder(half_bundle.path, precision="fp16") as half:
        assert full.precision is Precision.FP32
        assert half.precision is Precision.FP16
        assert 0 < abs(float(full.predict(pair)) - float(half.predict(pair))) < LIMIT


def test_optimum_makes_fp32_alone(checkpoint: Path, tmp_path: Path) -> None:
    read = Checkpoint.read(checkpoint)
    with pytest.raises(OptionError, match="fp32 alone"):
        export_bundle(read, tmp_path / "b", precisions=[Precision.FP16], exporter="optimum")
    assert not (tmp_path / "b").exists()


def test_the_command_prints_what_stayed_behind(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wild = scaled(checkpoint, tmp_path, 4e4)
    (tmp_path / "pairs.tsv").write_text("a query\ta passage\n")
    command = ["crossrt", "export", str(wild), str(tmp_path / "b"), "--precision", "fp32,fp16"]
    monkeypatch.setattr("sys.argv", [*command, "--calibrate", str(tmp_path / "pairs.tsv")])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    printed = capsys.readouterr()
    assert "parity passed: fp16 on onnxruntime, rounded after every operator" in printed.out
    assert "stays in FP32        layer.0.output_residual: magnitude" in printed.out
    assert "--calibrate" not in printed.err
    monkeypatch.setattr("sys.argv", [*command, "--force"])
    with pytest.raises(SystemExit):
        main()
    assert "give real ones of your own kind, at least 40 queries" in capsys.readouterr().err
