"""A GPU and a TensorRT in memory: engines are built in no time, and computed by ONNX Runtime's CPU."""

import importlib.util
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from crossrt.engine.backends.tensorrt import TensorRtExecutor
from crossrt.engine.bundle.bundle import Bundle
from crossrt.engine.bundle.profiles import Shape
from crossrt.engine.files.cache import VARIABLE
from crossrt.engine.hardware.gpus import Gpu
from crossrt.engine.precision import Precision
from crossrt.engine.selection import select_gpu as gpu_module
from crossrt.engine.selection.execution_config import GpuConfig
from crossrt.export.tensorrt import engine_builder, engines
from tests.engine.cuda.simulated_gpu import SimulatedContext, SimulatedExecutor, SimulatedGpu

GPU = Gpu(name="NVIDIA Memory 1", capability="9.0")


class OnnxContext(SimulatedContext):
    """Computes the bundle's ONNX model where a GPU would compute the engine."""

    def enqueue(self, shape: Shape, addresses: Mapping[str, int]) -> None:
        executor = self.executor
        assert isinstance(executor, OnnxExecutor)
        executor.shapes.append(shape)

        def compute() -> None:
            feeds = {
                name: executor.cuda.at(addresses[name], shape[0] * shape[1] * dtype.itemsize).view(dtype).reshape(shape)
                for name, dtype in executor.layout.inputs.items()
            }
            [logits] = executor.session.run(["logits"], feeds)
            error = executor.error(logits) if callable(executor.error) else executor.error
            logits = (logits + error).astype(np.float32)
            executor.cuda.at(addresses["logits"], logits.nbytes)[:] = logits.reshape(-1).view(np.uint8)

        executor.cuda.kernel(self.stream, compute)


class OnnxExecutor(SimulatedExecutor):
    def __init__(self, bundle: Bundle, config: GpuConfig, error: Any) -> None:
        found, _ = gpu_module._engine(bundle, config.precision, 0, config.engine, trusted=config.trust_engines)
        assert found is not None
        profiles = found[1].profiles
        super().__init__(
            SimulatedGpu(),
            limits=tuple(profile.max for profile in profiles),
            dtype=np.int64,
            names=tuple(bundle.manifest.inputs),
            lanes=TensorRtExecutor.lanes,
            graphs=TensorRtExecutor.graphs,
        )
        self.session = onnxruntime.InferenceSession(str(bundle.model_file(config.precision, gpu=True)))
        self.error = error

    def context(self, stream: int, workspace: int) -> SimulatedContext:
        self.contexts += 1
        return OnnxContext(self, stream, workspace)


def install_simulated_machine(monkeypatch: pytest.MonkeyPatch, cache: Path) -> dict[str, Any]:
    """Put a GPU and a TensorRT, whose engines err by `error`, where crossrt looks for them; return what becomes of them."""
    found: dict[str, Any] = {"error": 0.0, "built": [], "opened": [], "version": "10.13.0"}

    def build(model: Path, profiles: Any, *, library: str, options: Any, progress: Any) -> bytes:
        found["built"].append(model.name)
        progress("timing graph nodes, 3 of 5")
        return b"plan of " + model.name.encode()

    def refit(plan: bytes, model: Path, *, library: str) -> bytes:
        return plan + b" with the weights of " + model.name.encode()

    def opened(bundle: Bundle, config: GpuConfig) -> list[OnnxExecutor]:
        found["opened"].append(OnnxExecutor(bundle, config, found["error"]))
        return found["opened"][-1:]

    layers = [{"Name": f"_gemm_mha_v2_myl0_{n}", "Metadata": f"[ONNX Layer: layer.{n}.context_heads]"} for n in (0, 1)]

    for module in (engines, gpu_module):
        monkeypatch.setattr(module, "gpus", lambda: (GPU,))
        monkeypatch.setattr(module, "backend_version", lambda name: found["version"])
    monkeypatch.setattr(engine_builder, "engine_from_onnx", build)
    monkeypatch.setattr(engine_builder, "refitted", refit)
    monkeypatch.setattr(engine_builder, "layer_information", lambda plan, library: json.dumps({"Layers": layers}))
    monkeypatch.setenv(VARIABLE, str(cache))
    monkeypatch.setattr(engines, "here", lambda device=0: (GPU, "tensorrt"))
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: True if name == "tensorrt" else find_spec(name, *rest)
    )
    monkeypatch.setattr("crossrt.engine.selection.select_gpu.open_executors", opened)
    return found


def build_into_cache(bundle: str, cache: str, log: str) -> None:
    """Build an engine as a process of its own does, and tell the log of it; a build takes a second."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        install_simulated_machine(monkeypatch, Path(cache))
        build = engine_builder.engine_from_onnx

        def slow_build(*words: Any, **options: Any) -> bytes:
            with Path(log).open("a", encoding="utf-8") as opened:
                opened.write("built\n")
            time.sleep(1)
            return build(*words, **options)

        monkeypatch.setattr(engine_builder, "engine_from_onnx", slow_build)
        engines.add_engines(Bundle.open(Path(bundle)), [Precision.FP32], cache=True, progress=print)


if __name__ == "__main__":
    build_into_cache(*sys.argv[1:])
