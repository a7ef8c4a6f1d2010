"""Engines are built for real, by TensorRT-RTX, which needs no GPU: that the graphs build is proved, not that they are fast."""

import importlib
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import onnx
import pytest
from onnx import TensorProto, helper

pytest.importorskip("torch")
pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")

from crossrt.engine.backends.tensorrt import collecting_logger
from crossrt.engine.bundle.profiles import profiles_for
from crossrt.engine.errors import BackendError, OptionError
from crossrt.engine.hardware.gpus import gpus
from crossrt.export.checkpoint.checkpoint import Checkpoint
from crossrt.export.graph.numerics import FP16, FP32
from crossrt.export.graph.writer import graph_of
from crossrt.export.tensorrt import build as tensorrt
from crossrt.export.tensorrt.build import BuildOptions, engine_from_onnx, keep_timings, refitted, use_timings
from tests.export.zoo_models import is_repeated, zoo

QUICK = BuildOptions(optimization_level=0)


def build(model: onnx.ModelProto, profiles: Any = None, options: BuildOptions = QUICK) -> bytes:
    return engine_from_onnx(
        model.SerializeToString(), profiles or profiles_for(512), library="tensorrt_rtx", options=options
    )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    model = next(model for model in zoo.ZOO if model.name.endswith("TinyBERT-L-2-v2"))
    return Checkpoint.read(zoo.write_model(model, tmp_path_factory.mktemp("tiny")))


def of_zoo(model: Any) -> Any:
    """The parameter of a test. Repeated models are slow. So are BERTs of 768 channels and more, which differ only in sizes."""
    wide = model.kind == "bert" and model.hidden >= 768
    return pytest.param(model, id=model.folder, marks=pytest.mark.slow if wide or is_repeated(model) else ())


@pytest.mark.parametrize("model", [of_zoo(model) for model in zoo.ZOO])
def test_each_of_the_fifteen_builds_in_every_precision(
    model: Any, tmp_path: Path, pytestconfig: pytest.Config, load_benchmark: Any
) -> None:
    checkpoint = Checkpoint.read(zoo.write_model(model, tmp_path, layers=2))
    recipes = ["fp32", "fp16", "int8 projections", "int8 full"]
    rows = [load_benchmark("rtx_builds").built(model.name, checkpoint, recipe) for recipe in recipes]
    for row in rows:
        assert row["engine_bytes"] > 1e6
        assert row["attention"] == "2 of 2 layers in the form that fuses; fused: unmeasured"
        assert row["head_size"] % 8 == 0 or row["precision"] == "fp32"
        assert row["operands_in_8_bits"] == (row["precision"] == "int8 full"), "of the last layer, [CLS] alone asks"
    assert rows[1]["engine_bytes"] < 0.8 * rows[0]["engine_bytes"], "FP16 weights are half the size"
    if file := pytestconfig.option.engine_rows:
        with file.open("a") as opened:
            opened.writelines(json.dumps(row) + "\n" for row in rows)


def test_the_whole_of_minilm_builds_in_every_recipe(tmp_path: Path, load_benchmark: Any) -> None:
    model = next(model for model in zoo.ZOO if model.name.endswith("MiniLM-L-6-v2"))
    checkpoint = Checkpoint.read(zoo.write_model(model, tmp_path))
    for recipe in ("fp16", "int8 full"):
        row = load_benchmark("rtx_builds").built(model.name, checkpoint, recipe)
        assert row["layers"] == 6
        assert row["profiles"][-1][-1] == (32, 512)
        assert row["attention"].startswith("6 of 6 layers in the form that fuses")
        assert row["operands_in_8_bits"] == (5 if recipe == "int8 full" else 0), "of the last, [CLS] alone asks"


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


def test_progress_is_told_while_it_builds(tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "PROGRESS_EVERY", 0.0)
    said: list[str] = []
    model = graph_of(tiny, FP32).SerializeToString()
    engine_from_onnx(model, profiles_for(512), library="tensorrt_rtx", options=QUICK, progress=said.append)
    assert len(said) > 10
    assert re.fullmatch(r"[a-z ]+, \d+ of \d+", said[0])


def test_options_are_what_the_builder_is_told() -> None:
    module = importlib.import_module("tensorrt_rtx")
    builder, flags = module.Builder(collecting_logger(module)), module.BuilderFlag

    def told(options: BuildOptions) -> tuple[Any, ...]:
        config = tensorrt._config(module, builder, options)
        assert not config.get_flag(flags.TF32), "FP32 is FP32"
        assert config.profiling_verbosity == module.ProfilingVerbosity.DETAILED
        return (
            config.get_memory_pool_limit(module.MemoryPoolType.WORKSPACE),
            config.builder_optimization_level,
            config.get_flag(flags.REFIT),
            config.get_flag(flags.VERSION_COMPATIBLE),
        )

    usual = builder.create_builder_config().builder_optimization_level
    assert told(BuildOptions()) == (4 << 30, usual, False, False)
    assert told(BuildOptions(workspace=1 << 28, optimization_level=5)) == (1 << 28, 5, False, False)
    assert told(BuildOptions(refittable=True))[2:] == (True, False)
    assert told(BuildOptions(version_compatible=True))[2:] == (False, True)
    # This one TensorRT-RTX takes without a word and forgets: its engines are for many GPUs in any case.
    config = MagicMock()
    tensorrt._config(
        module, SimpleNamespace(create_builder_config=lambda: config), BuildOptions(hardware_compatible=True)
    )
    assert config.hardware_compatibility_level == module.HardwareCompatibilityLevel.AMPERE_PLUS


def test_a_refittable_engine_that_cannot_be_built_here_is_told_in_words(tiny: Checkpoint) -> None:
    """TensorRT-RTX wants a driver for it."""
    if gpus():
        pytest.skip("there is a GPU here")
    with pytest.raises(BackendError, match="found no engine for this model\n  TensorRT says: "):
        build(graph_of(tiny, FP16), options=BuildOptions(optimization_level=0, refittable=True))


class Refitting:
    """TensorRT's documented API for refitting, on plans that are JSON: {"refittable": ..., "weights": {...}}."""

    __version__ = "10.13.0"

    class ILogger:
        ERROR, INTERNAL_ERROR, WARNING = "error", "internal error", "warning"

    class Runtime:
        def __init__(self, log: Any) -> None:
            self.log = log

        def deserialize_cuda_engine(self, plan: bytes) -> Any:
            if not plan.startswith(b"{"):
                self.log.log("error", "magic tag does not match")
                return None
            fields = json.loads(plan)
            engine = SimpleNamespace(fields=fields, refittable=fields["refittable"])
            engine.serialize = lambda: json.dumps(engine.fields).encode()
            return engine

    class Refitter:
        def __init__(self, engine: Any, log: Any) -> None:
            if not engine.refittable:
                raise TypeError("factory function returned nullptr")
            self.engine, self.log, self.weights = engine, log, {}

        def get_missing_weights(self) -> list[str]:
            return sorted(set(self.engine.fields["weights"]) - set(self.weights))

        def refit_cuda_engine(self) -> bool:
            if not self.engine.fields.get("device", True):
                self.log.log("error", "out of memory")
                return False
            self.engine.fields["weights"] |= self.weights
            return True

    class OnnxParserRefitter:
        num_errors = 1

        def __init__(self, refitter: Any, log: Any) -> None:
            self.refitter = refitter

        def refit_from_bytes(self, model: bytes) -> bool:
            if model == b"no model":
                return False
            self.refitter.weights = {
                t.name: len(t.raw_data) for t in onnx.ModelProto.FromString(model).graph.initializer
            }
            return True

        def refit_from_file(self, path: str) -> bool:
            return self.refit_from_bytes(Path(path).read_bytes())

        def get_error(self, number: int) -> Any:
            return SimpleNamespace(
                node_operator=lambda: "", node_name=lambda: "", desc=lambda: "Failed to parse ONNX model"
            )


def plan_for(model: onnx.ModelProto, **fields: Any) -> bytes:
    weights = {tensor.name: 0 for tensor in model.graph.initializer}
    return json.dumps({"refittable": True, "weights": weights, **fields}).encode()


def test_weights_go_into_an_engine_of_the_same_graph(
    tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", Refitting)
    model = graph_of(tiny, FP16)
    plan = refitted(plan_for(model), model.SerializeToString())
    assert json.loads(plan)["weights"] == {tensor.name: len(tensor.raw_data) for tensor in model.graph.initializer}
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    assert refitted(plan_for(model), tmp_path / "model.onnx") == plan


def test_what_cannot_be_refitted_is_told(tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", Refitting)
    half, full = graph_of(tiny, FP16), graph_of(tiny, FP32)
    model = half.SerializeToString()
    for plan, onnx_model, said in (
        (b"cut", model, "cannot be loaded by tensorrt 10.13.0\n  TensorRT says: magic tag"),
        (plan_for(half, refittable=False), model, "not built to be refitted: build it again with --refittable"),
        (plan_for(half), b"no model", "does not take this model's weights.*\n  Failed to parse"),
        (plan_for(half), full.SerializeToString(), r"weights are not in this model \(.*float16.*another graph"),
        (plan_for(half, device=False), model, "could not be replaced; build it again\n  TensorRT says: out of memory"),
    ):
        with pytest.raises(BackendError, match=said):
            refitted(plan, onnx_model)
    monkeypatch.delattr(Refitting, "OnnxParserRefitter")
    with pytest.raises(BackendError, match="cannot take weights from an ONNX file: build the engine again"):
        refitted(plan_for(half), model)


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
