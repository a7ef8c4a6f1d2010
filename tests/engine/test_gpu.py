"""Which GPU, backend and precision: decided without one, by what a driver would say."""

import importlib.util
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from crossrt.engine import backends, gpu
from crossrt.engine.bundle import Bundle, BundleModel
from crossrt.engine.cross_encoder import CrossEncoder
from crossrt.engine.driver import Gpu, gpus
from crossrt.engine.engine_file import EngineFile, profiles_for
from crossrt.engine.errors import BackendError, OptionError
from crossrt.engine.gpu import gpu_setup
from crossrt.engine.onnxruntime_cuda import OnnxRuntimeExecutor
from crossrt.engine.plan import Batch
from crossrt.engine.precision import Precision
from crossrt.engine.session import Setup, choose_setup

H200 = Gpu(name="NVIDIA H200", capability="9.0")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine with two GPUs, TensorRT 10.13 and ONNX Runtime for CUDA; tests take away what they want missing."""
    found = SimpleNamespace(gpus=(H200, H200), installed={"tensorrt"}, cuda=True)
    monkeypatch.setattr(gpu, "gpus", lambda: found.gpus)
    monkeypatch.setattr(gpu, "has_cuda", lambda: found.cuda)
    monkeypatch.setattr(gpu, "backend_version", lambda name: "10.13.0")
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: name in found.installed or find_spec(name, *rest)
    )
    return found


@pytest.fixture
def with_engine(bundle: Path) -> Bundle:
    """The test bundle, as if it held FP16 and an engine of it."""
    opened = Bundle.open(bundle)
    engine = EngineFile(
        file="model.fp16.engine",
        precision="fp16",
        library="tensorrt",
        version="10.13.0",
        gpu="NVIDIA H200",
        capability="9.0",
        profiles=profiles_for(64),
        onnx_sha256="",
        build_seconds=1.0,
        options={},
    )
    fp32 = opened.manifest.models["fp32"]
    models = {"fp32": fp32, "fp16": BundleModel(file=fp32.file, parity={"passed": True})}
    return replace(opened, manifest=replace(opened.manifest, models=models, engines=(engine,)))


def setup_of(bundle: Bundle, **others: Any) -> Setup | None:
    asked = {"precision": "auto", "backend": "auto", "device": None, "allow_failed": False, **others}
    return gpu_setup(bundle, **asked)


def test_a_matching_engine_is_preferred_then_cuda_then_the_cpu(machine: Any, with_engine: Bundle) -> None:
    chosen = setup_of(with_engine)
    assert chosen is not None
    assert (chosen.backend, chosen.precision, chosen.devices) == ("tensorrt", Precision.FP16, ("cuda:0",))
    machine.installed = set()
    chosen = setup_of(with_engine)
    assert chosen is not None
    assert chosen.backend == "onnxruntime"
    machine.cuda = False
    assert setup_of(with_engine) is None
    assert choose_setup(with_engine).device == "cpu"


def test_an_engine_of_another_gpu_is_not_tried_and_the_error_names_both(machine: Any, with_engine: Bundle) -> None:
    machine.gpus = (Gpu(name="NVIDIA L4", capability="8.9"),)
    with pytest.raises(BackendError, match=r"for NVIDIA H200 .*9\.0.* on NVIDIA L4 .8\.9.; build one here"):
        setup_of(with_engine, backend="tensorrt", device="cuda")


def test_fp32_unless_asked_otherwise(machine: Any, with_engine: Bundle) -> None:
    chosen = setup_of(with_engine, precision=None)
    assert chosen is not None
    assert (chosen.backend, chosen.precision) == ("onnxruntime", Precision.FP32)


def test_a_device_that_is_not_there(machine: Any, with_engine: Bundle) -> None:
    with pytest.raises(BackendError, match="no device cuda:5; there are cuda:0 to cuda:1"):
        setup_of(with_engine, device="cuda:5")
    machine.gpus = ()
    with pytest.raises(BackendError, match="no NVIDIA driver"):
        setup_of(with_engine, device="cuda")
    assert setup_of(with_engine) is None


def test_several_devices_each_once(machine: Any, with_engine: Bundle) -> None:
    chosen = setup_of(with_engine, device=["cuda:0", "cuda:1"])
    assert chosen is not None
    assert chosen.device == "cuda:0, cuda:1"
    with pytest.raises(OptionError, match="each GPU once"):
        setup_of(with_engine, device=["cuda:0", "cuda"])


@pytest.mark.parametrize("device", ["gpu:0", "cuda:x", "cuda:", "mps"])
def test_words_that_are_no_device(machine: Any, with_engine: Bundle, device: str) -> None:
    with pytest.raises(BackendError, match="use 'cpu', 'cuda'"):
        setup_of(with_engine, device=device)


def test_bf16_says_why_each_backend_cannot(machine: Any, with_engine: Bundle) -> None:
    with pytest.raises(
        BackendError, match=r"tensorrt: the bundle has no bf16 engine(.|\n)*onnxruntime: does not compute"
    ):
        setup_of(with_engine, precision="bf16", device="cuda")


def test_without_a_driver_nothing_is_found_and_nothing_of_nvidias_is_loaded(bundle: Path) -> None:
    if gpus():
        pytest.skip("there is a GPU here")
    with pytest.raises(BackendError, match="no NVIDIA driver with a GPU was found"):
        CrossEncoder(bundle, device="cuda")
    with CrossEncoder(bundle) as model:
        assert model.device == "cpu"


def test_two_builds_of_onnxruntime_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_has_distribution", lambda name: name == "onnxruntime")
    assert not backends.has_cuda(), "the CPU's ONNX Runtime would compute on the CPU without a word"


def test_a_tensorrt_that_was_copied_is_known_by_its_module_and_only_where_there_is_a_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorrt.py").write_text("__version__ = '8.6.0'")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.setattr(backends, "_has_distribution", lambda name: False)
    monkeypatch.setattr(backends, "gpus", lambda: ())
    assert backends.backend_version("tensorrt") == "?"
    assert "tensorrt" not in sys.modules, "it could take the process down"
    monkeypatch.setattr(backends, "gpus", lambda: (H200,))
    assert backends.backend_version("tensorrt") == "8.6.0"


def test_onnxruntime_takes_the_file_for_gpus_where_there_is_one(bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    shutil.copy(copy / "model.fp32.onnx", copy / "for-gpus.onnx")
    opened = Bundle.open(copy)
    (copy / "model.fp32.onnx").write_bytes(b"not to be opened")
    models = {"fp32": replace(opened.manifest.models["fp32"], gpu_file="for-gpus.onnx")}
    opened = replace(opened, manifest=replace(opened.manifest, models=models))
    executor = OnnxRuntimeExecutor(opened, Precision.FP32, SimpleNamespace(ordinal=0), device="cpu")  # type: ignore[arg-type]
    executor.context(0).close()


def test_onnxruntime_computes_in_memory_that_is_lent_to_it(bundle: Path) -> None:
    """On the CPU's memory, which ONNX Runtime binds as it does a GPU's."""
    opened = Bundle.open(bundle)
    executor = OnnxRuntimeExecutor(opened, Precision.FP32, SimpleNamespace(ordinal=0), device="cpu")  # type: ignore[arg-type]
    context = executor.context(0)
    rng = np.random.default_rng(0)
    with CrossEncoder(bundle) as model:
        for shape in ((2, 9), (5, 16), (1, 4)):
            arrays = {
                "input_ids": rng.integers(5, 40, shape),
                "attention_mask": np.ones(shape, np.int64),
                "token_type_ids": np.zeros(shape, np.int64),
            }
            logits = np.full((shape[0], 1), np.nan, np.float32)
            addresses = {name: arrays[name].ctypes.data for name in executor.inputs} | {"logits": logits.ctypes.data}
            context.enqueue(shape, addresses)
            expected = model._scorer.run(Batch(**arrays, rows=np.arange(shape[0])))
            np.testing.assert_allclose(logits, expected, atol=2e-6)
    context.close()
