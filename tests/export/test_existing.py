"""A directory that somebody else exported becomes a bundle without torch."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from crossrt import CrossEncoder
from crossrt.engine.errors import CheckpointError
from crossrt.export.existing import bundle_from_onnx


@pytest.fixture
def exported(bundle: Path, checkpoint: Path, tmp_path: Path) -> Path:
    """Lay out a directory as sentence-transformers does: the model in onnx/, the rest beside it, no weights."""
    path = tmp_path / "exported"
    (path / "onnx").mkdir(parents=True)
    shutil.copyfile(bundle / "model.fp32.onnx", path / "onnx/model.onnx")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copyfile(checkpoint / name, path / name)
    return path


@pytest.mark.parametrize("tokenizer", ["tokenizer.json", "vocab.txt"])
def test_it_scores_as_the_checkpoints_own_bundle(
    exported: Path, bundle: Path, tmp_path: Path, pairs: list[tuple[str, str]], tokenizer: str
) -> None:
    (exported / ({"tokenizer.json", "vocab.txt"} - {tokenizer}).pop()).unlink()
    made = bundle_from_onnx(exported, tmp_path / "bundle")
    assert made.manifest.models["fp32"].parity is None
    with CrossEncoder(made.path) as ours, CrossEncoder(bundle) as theirs:
        np.testing.assert_array_equal(ours.predict(pairs), theirs.predict(pairs))


def test_the_command_line_needs_no_torch_for_it(exported: Path, tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'transformers', 'onnx', 'safetensors')));"
        "sys.argv[0] = 'crossrt'; from crossrt.__main__ import main; main()"
    )
    command = [
        sys.executable,
        "-c",
        program,
        "export",
        str(exported),
        str(tmp_path / "bundle"),
        "--exporter",
        "existing",
    ]
    child = subprocess.run(command, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    assert "was not checked" in child.stdout
    with CrossEncoder(tmp_path / "bundle") as model:
        assert np.isfinite(model.predict([("a", "b")])).all()


def test_a_model_with_other_inputs_or_outputs_is_refused(exported: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(exported / "onnx/model.onnx")
    for node in model.graph.node:
        node.output[:] = ["last_hidden_state" if name == "logits" else name for name in node.output]
    model.graph.output[0].name = "last_hidden_state"
    onnx.save(model, exported / "onnx/model.onnx")
    with pytest.raises(CheckpointError, match="a cross-encoder has logits"):
        bundle_from_onnx(exported, tmp_path / "bundle")


def test_what_is_missing_is_named(exported: Path, tmp_path: Path) -> None:
    (exported / "tokenizer.json").unlink()
    (exported / "vocab.txt").unlink()
    with pytest.raises(CheckpointError, match=r"neither tokenizer\.json nor vocab\.txt"):
        bundle_from_onnx(exported, tmp_path / "bundle")
    (exported / "onnx/model.onnx").write_bytes(b"not a model")
    with pytest.raises(CheckpointError, match="cannot be opened by ONNX Runtime"):
        bundle_from_onnx(exported, tmp_path / "bundle")
    (exported / "onnx/model.onnx").unlink()
    with pytest.raises(CheckpointError, match=r"holds no model\.onnx"):
        bundle_from_onnx(exported, tmp_path / "bundle")
    (exported / "config.json").write_text(json.dumps({}))
    assert not (tmp_path / "bundle").exists()
