"""Hugging Face's own exporter gives a bundle that passes the same check. Needs `scripts/optimum_env`."""

from pathlib import Path

import pytest

pytest.importorskip(
    "optimum.exporters.onnx", reason="optimum-onnx is not installed: scripts/optimum_env makes its environment"
)

import numpy as np

from crossrt import CrossEncoder
from crossrt.engine.errors import CheckpointError
from crossrt.export.checkpoint import Checkpoint
from crossrt.export.existing import bundle_from_onnx
from crossrt.export.export import export_bundle

pytestmark = pytest.mark.filterwarnings("ignore")  # Optimum's own: the exporter it uses is deprecated, files left open


def test_an_export_by_optimum_passes_parity(checkpoint: Path, tmp_path: Path) -> None:
    bundle, (report,) = export_bundle(Checkpoint.read(checkpoint), tmp_path / "bundle", exporter="optimum")
    assert report, str(report)
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

    from crossrt.export.heads import Head

    with pytest.raises(CheckpointError, match="Optimum has no class"):
        export_bundle(replace(Checkpoint.read(checkpoint), head=Head.BERT_CAT), tmp_path / "bundle", exporter="optimum")
