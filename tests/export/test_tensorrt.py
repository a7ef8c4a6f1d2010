"""Engines are built for real, by TensorRT-RTX, which needs no GPU: that the graphs build is proved, not that they are fast."""

import hashlib
import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

pytest.importorskip("torch")
pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")

from crossrt.calibration.quantization import Quantization
from crossrt.calibration.recipe import Recipe
from crossrt.engine.engine_file import profiles_for
from crossrt.engine.errors import BackendError, OptionError
from crossrt.export.checkpoint import Checkpoint
from crossrt.export.numerics import FP16, FP32, Numerics
from crossrt.export.onnx import graph_of
from crossrt.export.points import points_of
from crossrt.export.tensorrt import BuildOptions, engine_from_onnx, keep_timings, use_timings

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "scripts"))  # parameters are needed before fixtures are
import model_zoo as zoo

sys.path.pop(0)

QUICK = BuildOptions(optimization_level=0)


def eight_bits(checkpoint: Checkpoint) -> Numerics:
    """FP16 with Q/DQ where the default recipe has them. The scale is any: kernels do not depend on it."""
    return Numerics(
        half=True, quantized={point.name: Quantization(scale=0.05) for point in points_of(checkpoint, Recipe())}
    )


def build(model: onnx.ModelProto, profiles: Any = None, options: BuildOptions = QUICK) -> bytes:
    return engine_from_onnx(
        model.SerializeToString(), profiles or profiles_for(512), library="tensorrt_rtx", options=options
    )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    model = next(model for model in zoo.ZOO if model.name.endswith("TinyBERT-L-2-v2"))
    return Checkpoint.read(zoo.write_model(model, tmp_path_factory.mktemp("tiny")))


@pytest.mark.parametrize("model", zoo.ZOO, ids=lambda model: model.folder)
def test_each_of_the_fifteen_builds_in_every_precision(model: Any, tmp_path: Path) -> None:
    checkpoint = Checkpoint.read(zoo.write_model(model, tmp_path, layers=2))
    profiles = profiles_for(checkpoint.dimensions.positions)
    rows = []
    for name, numerics in (("fp32", FP32), ("fp16", FP16), ("int8", eight_bits(checkpoint))):
        graph = graph_of(checkpoint, numerics)
        begin = time.perf_counter()
        plan = build(graph, profiles)
        assert len(plan) > 1e6
        rows.append(
            {
                "model": model.name,
                "layers": 2,
                "precision": name,
                "engine_bytes": len(plan),
                "profiles": [[profile.min, profile.opt, profile.max] for profile in profiles],
                "onnx_sha256": hashlib.sha256(graph.SerializeToString()).hexdigest(),
                "build_s": round(time.perf_counter() - begin, 2),
            }
        )
    assert rows[1]["engine_bytes"] < 0.8 * rows[0]["engine_bytes"], "FP16 weights are half the size"
    if folder := os.environ.get("CROSSRT_ENGINE_ROWS"):
        (Path(folder) / f"{model.folder}.json").write_text(json.dumps(rows, indent=1) + "\n")


def test_a_node_that_tensorrt_does_not_know_is_named(tiny: Checkpoint) -> None:
    graph = graph_of(tiny, FP32)
    softmax = next(node for node in graph.graph.node if node.op_type == "Softmax")
    softmax.op_type, softmax.domain = "Hardmax2", "nowhere"
    del softmax.attribute[:]
    graph.opset_import.append(helper.make_opsetid("nowhere", 1))
    with pytest.raises(BackendError, match=r"does not take this model:(.|\n)*Hardmax2"):
        build(graph)


def test_types_that_do_not_fit_together_do_not_build(tiny: Checkpoint) -> None:
    graph = graph_of(tiny, FP16)
    product = next(node for node in graph.graph.node if node.op_type == "MatMul")
    graph.graph.node.append(
        helper.make_node("Cast", [product.input[0]], ["mutated"], to=TensorProto.FLOAT),
    )
    moved = list(graph.graph.node)
    moved.insert(moved.index(product), moved.pop())
    product.input[0] = "mutated"
    del graph.graph.node[:]
    graph.graph.node.extend(moved)
    with pytest.raises(BackendError):
        build(graph)


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(BackendError, match="does not take this model"):
        engine_from_onnx(b"no model", profiles_for(64), library="tensorrt_rtx")


def test_without_profiles_and_with_options_that_are_none() -> None:
    with pytest.raises(OptionError, match="at least one profile"):
        engine_from_onnx(b"", [], library="tensorrt_rtx")
    with pytest.raises(OptionError, match="optimization_level=9"):
        BuildOptions(optimization_level=9)
    with pytest.raises(OptionError, match="workspace=0"):
        BuildOptions(workspace=0)


class Config:
    """TensorRT's own, of what concerns timings: it takes nothing but what begins with its name."""

    def create_timing_cache(self, content: bytes) -> Any:
        return SimpleNamespace(serialize=lambda: content or b"fresh") if content[:3] in (b"", b"fre") else None

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        self.cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self.cache


def test_timings_are_kept_and_damaged_ones_are_as_good_as_none(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "timings"
    for content in (None, b"fresh and more", b"damaged"):
        if content is not None:
            file.write_bytes(content)
        config = Config()
        use_timings(config, file)
        keep_timings(config, file)
        assert file.read_bytes() == (content if content == b"fresh and more" else b"fresh")
    assert [each.name for each in file.parent.iterdir()] == ["timings"]


def test_timings_that_cannot_be_kept_are_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    config = Config()
    use_timings(config, tmp_path / "file" / "timings")
    keep_timings(config, tmp_path / "file" / "timings")
