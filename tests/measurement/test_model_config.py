"""What the scores of a row depend on is noted, so that no other model's are taken for them."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from crossrt.engine.bundle.bundle import Bundle
from crossrt.engine.kernels.support import NARROW
from crossrt.engine.precision import Precision
from crossrt.measurement import model_config
from crossrt.measurement.model_config import ModelConfig, Options
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
