"""A bundle under construction: what is written is hashed once, and what is removed is not listed."""

from dataclasses import replace
from pathlib import Path

import pytest

from crossrt import Bundle, CrossEncoder
from crossrt.engine.bundle.manifest import BundleModel, Manifest
from crossrt.engine.files.digests import sha256_of
from crossrt.engine.precision import Precision

pytest.importorskip("torch")

from crossrt.export.bundle import builder as builder_module
from crossrt.export.bundle.builder import BundleBuilder


@pytest.fixture
def builder(bundle: Path, tmp_path: Path) -> BundleBuilder:
    manifest = replace(Bundle.open(bundle).manifest, models={}, files=())
    return BundleBuilder(tmp_path, manifest)


def append(path: Path, text: str) -> None:
    """Write a model and append to its external weights, as onnx does."""
    path.write_text("graph", encoding="utf-8")
    with (path.parent / f"{path.name}_data").open("a") as file:
        file.write(text)


def test_a_file_is_hashed_when_it_is_written_and_not_again(
    builder: BundleBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder.write_text("tokenizer.json", "{}")
    builder.write("onnx/model.onnx", lambda path: append(path, "weights"))
    (builder.directory / "config.json").write_text("{}")  # by somebody else
    hashed: list[str] = []
    monkeypatch.setattr(builder_module, "sha256_of", lambda path: hashed.append(path.name) or sha256_of(path))
    for _ in range(3):
        builder.bundle_with(Precision.FP32, BundleModel(file="onnx/model.onnx"))
    builder.models["fp32"] = BundleModel(file="onnx/model.onnx")
    builder.finish()
    assert hashed == ["config.json"]
    files = Bundle.open(builder.directory, verify=True).manifest.files
    assert [file.name for file in files] == ["config.json", "onnx/model.onnx", "onnx/model.onnx_data", "tokenizer.json"]


def test_a_file_that_is_written_again_replaces_its_external_weights(builder: BundleBuilder) -> None:
    for text in ("first", "second"):
        builder.write("onnx/model.onnx", lambda path, text=text: append(path, text))
    assert (builder.directory / "onnx/model.onnx_data").read_text() == "second"
    bundle = builder.bundle_with(Precision.FP32, BundleModel(file="onnx/model.onnx"))
    assert bundle.sha256("onnx/model.onnx_data") == sha256_of(builder.directory / "onnx/model.onnx_data")


def test_a_file_that_is_removed_is_not_listed_nor_are_its_weights(builder: BundleBuilder) -> None:
    builder.write_text("tokenizer.json", "{}")
    builder.write("model.int8.gpu.onnx", lambda path: append(path, "weights"))
    builder.remove("model.int8.gpu.onnx")
    builder.remove("model.int8.gpu.onnx")
    builder.finish()
    manifest = Manifest.from_json((builder.directory / "manifest.json").read_text(), where=builder.directory)
    assert [file.name for file in manifest.files] == ["tokenizer.json"]


def test_the_runtime_opens_a_bundle_that_has_no_manifest_yet(builder: BundleBuilder, bundle: Path) -> None:
    for name in ("tokenizer.json", "onnx/model.onnx"):
        builder.write(name, lambda path, name=name: path.write_bytes((bundle / name).read_bytes()))
    opened = builder.bundle_with(Precision.FP32, BundleModel(file="onnx/model.onnx"))
    with CrossEncoder(opened, backend="onnxruntime", allow_failed=True) as ours, CrossEncoder(bundle) as theirs:
        assert ours.predict(("a", "b")) == pytest.approx(theirs.predict(("a", "b")), abs=1e-5)
    assert not (builder.directory / "manifest.json").exists()
