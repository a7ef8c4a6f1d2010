"""Exporting: what the graph is like, and that a bundle appears whole or not at all."""

import collections
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip("torch")
import onnx
import onnxruntime

from crossrt import Bundle, CrossEncoder
from crossrt.calibration.calibration_set import CalibrationSet
from crossrt.engine.bundle.manifest import ONNX_FILES
from crossrt.engine.errors import BundleError, OptionError
from crossrt.engine.precision import Precision
from crossrt.export.checkpoint.checkpoint import Checkpoint
from crossrt.export.export import export_bundle
from crossrt.export.graph.writer import graph_of, save

pytestmark = pytest.mark.usefixtures("portable")


def test_the_graph_is_plain_and_its_opset_low(bundle: Path) -> None:
    model = onnx.load(bundle / "onnx/model.onnx")
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    operators = collections.Counter(node.op_type for node in model.graph.node)
    assert not {"IsNaN", "Where", "If", "Loop", "Dropout", "Identity", "Constant"} & set(operators)
    assert operators["LayerNormalization"] == 5
    assert operators["Softmax"] == 2
    assert operators["Unsqueeze"] == 1, "the mask is made once, not per layer"


def test_inputs_and_output_have_hugging_faces_names_and_dynamic_shapes(bundle: Path) -> None:
    graph = onnx.load(bundle / "onnx/model.onnx").graph
    shapes = {
        value.name: [dimension.dim_param or dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    pair = ["batch", "sequence"]
    assert shapes == {"input_ids": pair, "attention_mask": pair, "token_type_ids": pair, "logits": ["batch", 1]}


def test_weights_are_stored_once(bundle: Path) -> None:
    graph = onnx.load(bundle / "onnx/model.onnx").graph
    large = [tensor.raw_data for tensor in graph.initializer if len(tensor.raw_data) > 1000]
    assert len(large) == len(set(large))
    names = [tensor.name for tensor in graph.initializer]
    assert len(names) == len(set(names))
    used = {name for node in graph.node for name in node.input}
    assert set(names) <= used


def test_the_last_layer_is_computed_for_the_first_token_alone(checkpoint: Path) -> None:
    exposed = ("layer.0.intermediate.product", "layer.1.key_value.product", "layer.1.intermediate.product")
    proto = graph_of(Checkpoint.read(checkpoint))
    proto.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in exposed)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    ids = np.full((3, 7), 5)
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    shapes = [values.shape for values in session.run(list(exposed), feeds)]
    assert shapes == [(3, 7, 64), (3, 7, 64), (3, 1, 64)]


def test_weights_above_protobufs_limit_lie_beside_the_model(
    checkpoint: Path, calibration: CalibrationSet, undrawn: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crossrt.export.graph.writer.EXTERNAL_DATA_ABOVE", 1000)
    bundle, _ = export_bundle(
        Checkpoint.read(checkpoint),
        tmp_path / "bundle",
        precisions=[Precision.FP16, Precision.INT8],
        calibration=calibration,
        keep_going=True,
    )
    names = {file.name for file in bundle.manifest.files}
    for file in (ONNX_FILES[precision] for precision in ("fp32", "fp16", "int8")):
        assert {file, f"{file}_data"} <= names
    for precision in ("fp32", "int8"):
        with CrossEncoder(bundle, precision=precision, backend="onnxruntime", allow_failed=True) as model:
            assert np.isfinite(model.logits([("a", "b")])).all()


def test_a_graph_is_the_same_after_it_was_written(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crossrt.export.graph.writer.EXTERNAL_DATA_ABOVE", 1000)
    graph = graph_of(Checkpoint.read(checkpoint))

    def weights() -> list[tuple[str, int, bytes]]:
        return [(each.name, each.data_location, each.raw_data) for each in graph.graph.initializer]

    before = weights()
    save(graph, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx_data").is_file()
    assert weights() == before


def test_weights_beside_a_graph_can_be_read_by_whoever_can_read_the_graph(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crossrt.export.graph.writer.EXTERNAL_DATA_ABOVE", 1000)
    save(graph_of(Checkpoint.read(checkpoint)), tmp_path / "model.onnx")
    (tmp_path / "other").touch()
    modes = {path.name: path.stat().st_mode for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys(("model.onnx", "model.onnx_data", "other"), modes["other"])


def test_weights_that_optimum_puts_beside_the_model_come_along(
    checkpoint: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Optimum does so above 2 GB. Its exporter is one in memory here, because optimum-onnx needs an older transformers."""

    def main_export(name: str, *, output: Path, **_: object) -> None:
        model = onnx.load(bundle / "onnx/model.onnx")
        onnx.save_model(model, output / "model.onnx", save_as_external_data=True, location="model.onnx_data")

    for name in ("optimum", "optimum.exporters", "optimum.exporters.onnx"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(sys.modules["optimum.exporters.onnx"], "main_export", main_export, raising=False)
    made, _ = export_bundle(Checkpoint.read(checkpoint), tmp_path / "bundle", exporter="optimum")
    assert "onnx/model.onnx_data" in {file.name for file in made.manifest.files}
    assert Bundle.open(made.path, verify=True)


def test_the_same_checkpoint_gives_the_same_bytes(checkpoint: Path, tmp_path: Path, bundle: Path) -> None:
    export_bundle(Checkpoint.read(checkpoint), tmp_path / "again")
    for name in ("onnx/model.onnx", "tokenizer.json"):
        assert (tmp_path / "again" / name).read_bytes() == (bundle / name).read_bytes()


def test_an_existing_bundle_is_kept_unless_forced(
    checkpoint: Path, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    export_bundle(Checkpoint.read(checkpoint), out)
    before = (out / "manifest.json").read_bytes()
    other = Checkpoint.read(make_checkpoint(seed=9))
    with pytest.raises(BundleError, match=r"already there.*--force"):
        export_bundle(other, out)
    assert (out / "manifest.json").read_bytes() == before
    export_bundle(other, out, force=True)
    assert (out / "manifest.json").read_bytes() != before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_directory_that_is_no_bundle_is_never_replaced(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters/dear.txt").write_text("Dear")
    with pytest.raises(BundleError, match="is not a bundle"):
        export_bundle(Checkpoint.read(checkpoint), tmp_path / "letters", force=True)
    assert (tmp_path / "letters/dear.txt").read_text() == "Dear"


def test_an_unknown_exporter_is_named(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="unknown exporter 'magic'; one of crossrt, optimum"):
        export_bundle(Checkpoint.read(checkpoint), tmp_path / "bundle", exporter="magic")


def test_a_killed_export_leaves_the_old_bundle_and_the_next_one_clears_up(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    export_bundle(Checkpoint.read(checkpoint), out)
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    child = subprocess.Popen([sys.executable, "-m", "crossrt", "export", str(checkpoint), str(out), "--force"])
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".bundle.*.partial/onnx/model.onnx")):
        assert child.poll() is None, "the export ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before
    Bundle.open(out, verify=True)
    export_bundle(Checkpoint.read(checkpoint), out, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_full_disk_is_an_error_and_leaves_nothing(checkpoint: Path, tmp_path: Path) -> None:
    program = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000));"
        "sys.argv[0] = 'crossrt'; from crossrt.__main__ import main; main()"
    )
    command = [sys.executable, "-c", program, "export", str(checkpoint), str(tmp_path / "bundle")]
    child = subprocess.run(command, capture_output=True, text=True)
    assert child.returncode == 1
    assert "File too large" in child.stderr
    assert "Traceback" not in child.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_that_cannot_be_written_is_an_error(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(PermissionError):
        export_bundle(Checkpoint.read(checkpoint), tmp_path / "locked/bundle")


def test_a_vocabulary_alone_gives_the_same_tokenizer(checkpoint: Path, tmp_path: Path, bundle: Path) -> None:
    source = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, source)
    (source / "tokenizer.json").unlink()
    export_bundle(Checkpoint.read(source), tmp_path / "bundle")
    pairs = [("How long, [SEP] does", "Café 中国 it-take"), ("", "")]
    with CrossEncoder(tmp_path / "bundle") as ours, CrossEncoder(bundle) as theirs:
        np.testing.assert_array_equal(ours.encode(pairs).ids, theirs.encode(pairs).ids)
