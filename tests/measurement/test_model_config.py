"""What the scores of a row depend on is noted, so that no other model's are taken for them."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossrt.engine.bundle.bundle import Bundle
from crossrt.engine.bundle.manifest import BundleFile
from crossrt.engine.kernels.support import NARROW
from crossrt.engine.precision import Precision
from crossrt.engine.text.windows import Windows
from crossrt.measurement import model_config
from crossrt.measurement.model_config import ModelConfig, Options, model_configs
from tests.engine.samples import cpu_config


@pytest.mark.parametrize(("backend", "noted"), [("native", True), ("onnxruntime", False)])
def test_the_native_kernels_own_weights_in_int8_are_noted(
    bundle: Path, tmp_path: Path, backend: str, noted: bool
) -> None:
    opened = Bundle.open(shutil.copytree(bundle, tmp_path / "model"))
    weights = tmp_path / "model/model.int8.native"
    model = replace(opened.manifest.models["fp32"], native_file=weights.name)
    opened = replace(opened, manifest=replace(opened.manifest, models={"int8": model}))
    found = []
    for content in (b"one export", b"another export"):
        weights.write_bytes(content)
        execution = cpu_config(backend, precision=Precision.INT8)
        found.append(ModelConfig(label="a", bundle=opened, execution=execution, options=Options()).fingerprint)
    assert (found[0] != found[1]) is noted


def test_weights_beside_a_graph_are_noted(bundle: Path, tmp_path: Path) -> None:
    """The graph of a model above 2 GB is the same for every training of it."""
    opened = Bundle.open(shutil.copytree(bundle, tmp_path / "model"))
    beside = BundleFile(name="onnx/model.onnx_data", size=1, sha256="0" * 64)
    large = replace(opened, manifest=replace(opened.manifest, files=(*opened.manifest.files, beside)))
    execution = cpu_config("onnxruntime")
    usual = ModelConfig(label="a", bundle=opened, execution=execution, options=Options())
    found = []
    for content in (b"a", b"b"):
        (tmp_path / "model" / beside.name).write_bytes(content)
        found.append(replace(usual, bundle=large).fingerprint)
    assert found[0] != found[1]
    assert found[0] == usual.fingerprint | {"weights": found[0]["weights"]}, "other runs can be continued"


def test_int8_with_activations_of_7_bits_is_other_work(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Bundle.open(bundle)
    model = replace(opened.manifest.models["fp32"], native_file="tokenizer.json")
    opened = replace(opened, manifest=replace(opened.manifest, models={"int8": model}))
    config = ModelConfig(
        label="a", bundle=opened, execution=cpu_config("native", precision=Precision.INT8), options=Options()
    )
    found = []
    for name in ("native", NARROW):
        monkeypatch.setattr(model_config, "parity_key", lambda backend, precision, name=name: name)
        found.append(config.fingerprint)
    assert found[0] != found[1]


def test_all_that_scores_depend_on_is_in_the_fingerprint(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    execution = cpu_config("onnxruntime")
    usual = ModelConfig(label="a", bundle=opened, execution=execution, options=Options())
    options = (
        Options(max_length=16),
        Options(max_length=32),
        Options(batch_size=7),
        Options(windows=Windows(length=20, stride=8)),
        Options(windows=Windows(length=20, stride=9)),
    )
    executions = (
        {"backend": "openvino"},
        {"precision": Precision.BF16},
        {"threads": execution.threads + 1},
        {"streams": execution.streams + 1},
    )
    manifests: tuple[dict[str, Any], ...] = (
        {"labels": 2, "relevant_label": 0},
        {"labels": 2, "relevant_label": 1},
        {"activation": "sigmoid"},
        {"prompt": "a prompt"},
        {"truncation_side": "left"},
    )
    others = (
        *(replace(usual, options=each) for each in options),
        *(replace(usual, execution=replace(execution, **each)) for each in executions),
        *(replace(usual, bundle=replace(opened, manifest=replace(opened.manifest, **each))) for each in manifests),
        replace(usual, top_k=3),
        replace(usual, top_k=4),
    )
    assert len({str(each.fingerprint) for each in (usual, *others)}) == 1 + len(others)
    same = replace(usual, label="b", options=Options(max_length=opened.manifest.max_length))
    assert same.fingerprint == usual.fingerprint


def test_a_model_opens_with_the_options_of_its_row(two_label_bundle: Path) -> None:
    options = Options(backend="openvino", device="cpu", threads=1, max_length=16, relevant_label="LABEL_0")
    [config] = model_configs([str(two_label_bundle)], ["fp32"], options)
    assert (config.execution.backend, config.execution.threads, config.relevant_label) == ("openvino", 1, 0)
    with config.open() as model:
        assert (model.backend, model.max_length) == ("openvino", 16)
        assert model.relevance(np.array([[3, 1]], dtype=np.float32)) == [2]
