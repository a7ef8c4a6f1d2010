"""Optimum's exporter gives a bundle that passes the same check, and others open bundles. Needs `scripts/optimum_env`."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip(
    "optimum.exporters.onnx", reason="optimum-onnx is not installed: scripts/optimum_env makes its environment"
)

import numpy as np

from crossrt import CrossEncoder
from crossrt.engine.errors import CheckpointError
from crossrt.export.checkpoint.checkpoint import Checkpoint
from crossrt.export.existing.existing import bundle_from_onnx
from crossrt.export.export import export_bundle

pytestmark = pytest.mark.filterwarnings("ignore")  # Optimum's own: the exporter it uses is deprecated, files left open


def test_an_export_by_optimum_passes_parity(checkpoint: Path, tmp_path: Path) -> None:
    bundle, reports = export_bundle(Checkpoint.read(checkpoint), tmp_path / "bundle", exporter="optimum")
    assert all(reports), "\n".join(map(str, reports))  # one more where the native kernels run
    assert bundle.manifest.source["exporter"] == "optimum"
    assert "optimum-onnx" in bundle.manifest.tools


def test_a_directory_that_optimum_exported_becomes_a_bundle(
    checkpoint: Path, bundle: Path, tmp_path: Path, pairs: list[tuple[str, str]]
) -> None:
    from optimum.onnxruntime import ORTModelForSequenceClassification
    from transformers import AutoTokenizer

    exported = tmp_path / "exported"
    ORTModelForSequenceClassification.from_pretrained(checkpoint, export=True).save_pretrained(exported)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(exported)
    made = bundle_from_onnx(exported, tmp_path / "bundle")
    with CrossEncoder(made.path) as ours, CrossEncoder(bundle) as theirs:
        np.testing.assert_allclose(ours.predict(pairs), theirs.predict(pairs), atol=2e-5)


def test_a_head_that_optimum_does_not_know_is_refused(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from crossrt.export.checkpoint.heads import Head

    with pytest.raises(CheckpointError, match="Optimum has no class"):
        export_bundle(replace(Checkpoint.read(checkpoint), head=Head.BERT_CAT), tmp_path / "bundle", exporter="optimum")


def test_optimum_opens_a_bundle_as_it_lies(bundle: Path, pairs: list[tuple[str, str]]) -> None:
    from optimum.onnxruntime import ORTModelForSequenceClassification
    from transformers import AutoTokenizer

    model, tokenizer = ORTModelForSequenceClassification.from_pretrained(bundle), AutoTokenizer.from_pretrained(bundle)
    encoded = (tokenizer([query], [passage], truncation=True, return_tensors="pt") for query, passage in pairs)
    logits = [model(**each).logits.numpy()[0] for each in encoded]
    with CrossEncoder(bundle, backend="onnxruntime") as ours:
        np.testing.assert_allclose(ours.logits(pairs), logits, atol=1e-5)


@pytest.mark.parametrize("activation", ["torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Sigmoid"])
def test_sentence_transformers_scores_with_a_bundle_as_it_lies(
    make_checkpoint: Callable[..., Path],
    make_bundle: Callable[..., Path],
    tmp_path: Path,
    pairs: list[tuple[str, str]],
    activation: str,
) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="not in this environment")
    bundle = Path(shutil.copytree(make_bundle(activation=activation), tmp_path / "bundle"))
    for name in ("model.fp16.fused.onnx", "onnx/model_fp16.onnx", "onnx/model_quantized.onnx"):
        (bundle / name).write_bytes(b"not to be opened")  # what other precisions put there
    theirs = sentence_transformers.CrossEncoder(str(bundle), backend="onnx", device="cpu")
    pairs = [*pairs, ("what is in the water", "eggs and salt " * 30)]
    with CrossEncoder(bundle, backend="onnxruntime") as ours:
        np.testing.assert_allclose(ours.predict(pairs), theirs.predict(pairs), atol=1e-5)
