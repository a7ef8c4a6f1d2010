"""An engine that has not given the ONNX model's scores on its GPU is in no bundle. The GPU here is one in memory."""

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

pytest.importorskip("torch")

from crossrt.__main__ import main
from crossrt.engine import gpu as gpu_module
from crossrt.engine.bundle import Bundle
from crossrt.engine.cross_encoder import CrossEncoder
from crossrt.engine.driver import Gpu
from crossrt.engine.engine_file import Shape
from crossrt.engine.errors import BackendError, OptionError, ParityError
from crossrt.engine.precision import Precision
from crossrt.export import engines
from crossrt.export.engines import add_engines, here
from tests.engine.memory_device import MemoryContext, MemoryDevice, MemoryExecutor

GPU = Gpu(name="NVIDIA Memory 1", capability="9.0")


class OnnxContext(MemoryContext):
    """Computes the bundle's ONNX model where a GPU would compute the engine."""

    def enqueue(self, shape: Shape, addresses: Mapping[str, int]) -> None:
        executor = self.executor
        assert isinstance(executor, OnnxExecutor)

        def compute() -> None:
            feeds = {
                name: executor.cuda.at(addresses[name], shape[0] * shape[1] * dtype.itemsize).view(dtype).reshape(shape)
                for name, dtype in executor.inputs.items()
            }
            [logits] = executor.session.run(["logits"], feeds)
            logits = (logits + executor.error).astype(np.float32)
            executor.cuda.at(addresses["logits"], logits.nbytes)[:] = logits.reshape(-1).view(np.uint8)

        executor.cuda.kernel(self.stream, compute)


class OnnxExecutor(MemoryExecutor):
    def __init__(self, bundle: Bundle, precision: Precision, error: float) -> None:
        profiles = next(e for e in bundle.manifest.engines if e.precision == precision.value).profiles
        super().__init__(
            MemoryDevice(),
            limits=tuple(profile.max for profile in profiles),
            dtype=np.int64,
            names=tuple(bundle.manifest.inputs),
        )
        self.session = onnxruntime.InferenceSession(str(bundle.model_file(precision)))
        self.error = error

    def context(self, stream: int) -> MemoryContext:
        self.contexts += 1
        return OnnxContext(self, stream)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A GPU and a TensorRT whose engines err by `error`."""
    found: dict[str, Any] = {"error": 0.0, "built": [], "version": "10.13.0"}

    def build(model: Path, profiles: Any, *, library: str, options: Any) -> bytes:
        found["built"].append(model.name)
        return b"plan of " + model.name.encode()

    for module in (engines, gpu_module):
        monkeypatch.setattr(module, "gpus", lambda: (GPU,))
        monkeypatch.setattr(module, "backend_version", lambda name: found["version"])
    monkeypatch.setattr(engines, "engine_from_onnx", build)
    monkeypatch.setattr(engines, "here", lambda device=0: (GPU, "tensorrt"))
    monkeypatch.setattr(gpu_module.importlib.util, "find_spec", lambda name, *rest: True)
    monkeypatch.setattr(
        "crossrt.engine.gpu.open_executors",
        lambda bundle, setup: [OnnxExecutor(bundle, setup.precision, found["error"])],
    )
    return found


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Bundle:
    return Bundle.open(shutil.copytree(bundle, tmp_path / "bundle"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_engine_that_passes_enters_the_bundle_and_is_used(machine: dict[str, Any], copy: Bundle) -> None:
    made, (check,) = add_engines(copy, [Precision.FP32])
    assert check.passed
    assert "passed, max |difference|" in str(check)
    [engine] = Bundle.open(copy.path, verify=True).manifest.engines
    assert engine.file == "model.fp32.nvidia-memory-1.engine"
    assert (made.path / engine.file).read_bytes() == b"plan of model.fp32.onnx"
    assert (engine.version, engine.gpu, engine.capability) == ("10.13.0", GPU.name, "9.0")
    with CrossEncoder(copy.path) as model, CrossEncoder(copy.path, device="cpu") as reference:
        assert (model.backend, model.device) == ("tensorrt", "cuda:0")
        pairs = [("what is k2", "a mountain"), ("what is k2", "a long river in the north of the country")] * 9
        np.testing.assert_allclose(model.predict(pairs), reference.predict(pairs), atol=1e-5)


@pytest.mark.parametrize("error", [0.01, np.nan, np.inf])
def test_an_engine_of_other_scores_enters_no_bundle(machine: dict[str, Any], copy: Bundle, error: float) -> None:
    machine["error"] = error
    before = contents(copy.path)
    with pytest.raises(ParityError, match=r"stays as it was: model\.fp32\..* FAILED"):
        add_engines(copy, [Precision.FP32])
    assert contents(copy.path) == before
    assert [path.name for path in copy.path.parent.iterdir()] == ["bundle"]


def test_built_again_it_replaces_its_own_kind_alone(machine: dict[str, Any], copy: Bundle) -> None:
    made, _ = add_engines(copy, [Precision.FP32])
    machine["version"] = "11.0.0"
    made, _ = add_engines(made, [Precision.FP32])
    [engine] = made.manifest.engines
    assert engine.version == "11.0.0"
    machine["version"] = "10.13.0"
    with pytest.raises(BackendError, match=r"built by tensorrt 11\.0\.0 .* and this is tensorrt 10\.13\.0"):
        CrossEncoder(made.path, device="cuda", backend="tensorrt")


def test_an_error_while_building_leaves_the_bundle_as_it_was(
    machine: dict[str, Any], copy: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*_: Any, **__: Any) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(engines, "engine_from_onnx", build)
    before = contents(copy.path)
    with pytest.raises(OSError, match="No space left"):
        add_engines(copy, [Precision.FP32])
    assert contents(copy.path) == before
    assert [path.name for path in copy.path.parent.iterdir()] == ["bundle"]


def test_precisions_that_have_no_engine(machine: dict[str, Any], copy: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bundle, "model_file", lambda self, precision, gpu: self.path / "model.fp32.onnx")
    with pytest.raises(OptionError, match="no engine is built in bf16"):
        add_engines(copy, [Precision.BF16])


def test_without_a_gpu_the_command_says_so_before_it_exports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        here()
    except BackendError:
        pass
    else:
        pytest.skip("there is a GPU here")
    monkeypatch.setattr(
        sys, "argv", ["crossrt", "export", str(tmp_path / "nothing"), str(tmp_path / "out"), "--tensorrt"]
    )
    with pytest.raises(SystemExit) as raised:
        main()
    assert raised.value.code == 1
    assert "there is no cuda:0 here" in capsys.readouterr().err
