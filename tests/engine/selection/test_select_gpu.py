"""The choice of GPU, backend and precision, tested without a GPU: the driver's answers are faked."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from crossrt.engine import cross_encoder
from crossrt.engine.backends import onnxruntime_cuda, tensorrt
from crossrt.engine.backends import registry as backends
from crossrt.engine.backends.onnxruntime_cuda import OnnxRuntimeExecutor
from crossrt.engine.batching.batch import Batch
from crossrt.engine.bundle.bundle import Bundle
from crossrt.engine.bundle.engine_file import EngineFile
from crossrt.engine.bundle.manifest import BundleModel
from crossrt.engine.cross_encoder import CrossEncoder
from crossrt.engine.cuda import cublas
from crossrt.engine.errors import BackendError, CudaError, OptionError
from crossrt.engine.files.digests import sha256_of
from crossrt.engine.hardware.gpus import Gpu, gpus
from crossrt.engine.log import warn_once
from crossrt.engine.precision import Precision
from crossrt.engine.selection import select_gpu
from crossrt.engine.selection.execution_config import ExecutionConfig, GpuConfig
from crossrt.engine.selection.select import choose_execution
from crossrt.engine.selection.select_gpu import choose_gpu, open_executors
from tests.engine.cuda.simulated_gpu import SimulatedExecutor, SimulatedGpu
from tests.engine.samples import engine_file

H200 = Gpu(name="NVIDIA H200", capability="9.0")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine with two GPUs, TensorRT 10.13 and ONNX Runtime for CUDA; tests remove parts of it."""
    found = SimpleNamespace(gpus=(H200, H200), installed={"tensorrt"}, cuda=True)
    monkeypatch.setattr(select_gpu, "gpus", lambda: found.gpus)
    monkeypatch.setattr(select_gpu, "has_cuda", lambda: found.cuda)
    monkeypatch.setattr(select_gpu, "backend_version", lambda name: "10.13.0")
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: name in found.installed or find_spec(name, *rest)
    )
    return found


@pytest.fixture
def with_engine(bundle: Path) -> Bundle:
    """The test bundle with manifest entries of an FP16 model and its engine."""
    opened = Bundle.open(bundle)
    engine = engine_file()
    fp32 = opened.manifest.models["fp32"]
    models = {"fp32": fp32, "fp16": BundleModel(file=fp32.file, parity={"passed": True})}
    return replace(opened, manifest=replace(opened.manifest, models=models, engines=(engine,)))


def config_of(bundle: Bundle, **others: Any) -> ExecutionConfig | None:
    asked = {"precision": "auto", "backend": "auto", "device": None, "allow_failed": False, "trust_engines": True}
    asked |= others
    return choose_gpu(bundle, **asked)


def test_a_matching_engine_is_preferred_then_cuda_then_the_cpu(machine: Any, with_engine: Bundle) -> None:
    chosen = config_of(with_engine)
    assert chosen is not None
    assert (chosen.backend, chosen.precision, chosen.device) == ("tensorrt", Precision.FP16, "cuda:0")
    machine.installed = set()
    chosen = config_of(with_engine)
    assert chosen is not None
    assert chosen.backend == "onnxruntime"
    machine.cuda = False
    assert config_of(with_engine) is None
    assert choose_execution(with_engine).device == "cpu"


@pytest.fixture
def with_native_kernels(machine: Any, with_engine: Bundle, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """The test bundle with FP16 weights for the native kernels, on a machine that can run them and has no TensorRT."""
    machine.installed = set()
    monkeypatch.setattr(select_gpu, "installed_bindings", lambda: "cuda.bindings")
    pytest.importorskip("cuda.bindings")
    from crossrt.engine.cuda import cuda_kernels

    monkeypatch.setattr(cublas, "load_cublas", lambda: None)
    monkeypatch.setattr(cuda_kernels, "capabilities_of_compiler", lambda: {"8.0", "9.0"})
    models = dict(with_engine.manifest.models)
    models["fp16"] = replace(models["fp16"], native_file="model.fp16.native")
    return replace(with_engine, manifest=replace(with_engine.manifest, models=models, engines=()))


def test_the_native_kernels_come_after_an_engine_and_before_onnx_runtime(
    machine: Any, with_engine: Bundle, with_native_kernels: Bundle
) -> None:
    chosen = config_of(with_native_kernels)
    assert chosen is not None
    assert (chosen.backend, chosen.precision) == ("native", Precision.FP16)
    machine.installed = {"tensorrt"}
    both = replace(
        with_native_kernels, manifest=replace(with_native_kernels.manifest, engines=with_engine.manifest.engines)
    )
    assert (chosen := config_of(both)) is not None
    assert chosen.backend == "tensorrt"
    assert (chosen := config_of(with_native_kernels, backend="onnxruntime")) is not None
    assert chosen.backend == "onnxruntime"


def test_native_kernels_that_have_not_run_on_a_gpu_come_last(machine: Any, with_native_kernels: Bundle) -> None:
    manifest = with_native_kernels.manifest
    modern = replace(
        with_native_kernels,
        manifest=replace(manifest, architecture=dict(manifest.architecture) | {"model_type": "modernbert"}),
    )
    assert (chosen := config_of(modern)) is not None
    assert (chosen.backend, chosen.reason) == ("onnxruntime", "the first of tensorrt, onnxruntime, native that can")
    assert (chosen := config_of(modern, backend="native")) is not None
    assert chosen.backend == "native"
    machine.cuda = False
    assert (chosen := config_of(modern)) is not None
    assert chosen.backend == "native"


def test_the_native_kernels_say_why_they_cannot_run_on_a_gpu(
    machine: Any, with_engine: Bundle, with_native_kernels: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def why(bundle: Bundle, **asked: Any) -> str:
        with pytest.raises(BackendError) as raised:
            config_of(bundle, **{"backend": "native", "device": "cuda", **asked})
        return str(raised.value)

    assert config_of(with_native_kernels, backend="native", device="cuda") is not None
    assert "computes only fp16 on a GPU, not fp32" in why(with_native_kernels, precision="fp32")
    assert "the bundle has no FP16 weights for it" in why(with_engine)
    machine.gpus = (H200, Gpu(name="Tesla T4", capability="7.5"))
    assert "needs compute capability 8.0, and Tesla T4 has 7.5" in why(with_native_kernels, device=["cuda:0", "cuda:1"])
    monkeypatch.setattr(select_gpu, "installed_bindings", lambda: "pycuda")
    assert 'needs cuda-bindings: pip install "crossrt[cuda]"' in why(with_native_kernels)
    monkeypatch.setattr(select_gpu, "installed_bindings", lambda: "cuda.bindings")

    machine.gpus = (Gpu(name="a later one", capability="15.0"),)
    assert "NVRTC here does not know compute capability 15.0, which a later one has" in why(with_native_kernels)
    machine.gpus = (H200,)

    def missing() -> None:
        raise BackendError("cuBLAS was not found")

    monkeypatch.setattr(cublas, "load_cublas", missing)
    assert "native: cuBLAS was not found" in why(with_native_kernels)
    assert "native: cuBLAS was not found" in why(with_native_kernels, device=None, precision="fp16"), "FP16 means a GPU"
    chosen = config_of(with_native_kernels)
    assert chosen is not None
    assert chosen.backend == "onnxruntime", "who asked for nothing gets what can run"


def test_an_engine_of_another_gpu_is_not_tried_and_the_error_names_both(machine: Any, with_engine: Bundle) -> None:
    machine.gpus = (Gpu(name="NVIDIA L4", capability="8.9"),)
    with pytest.raises(BackendError, match=r"for NVIDIA H200 .*9\.0.* on NVIDIA L4 .8\.9.; build one here"):
        config_of(with_engine, backend="tensorrt", device="cuda")
    with pytest.raises(BackendError, match="for NVIDIA H200"):
        config_of(with_engine, backend="tensorrt")


def test_where_no_engine_fits_it_is_said_once_what_they_were_built_for(
    machine: Any, with_engine: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    warn_once.cache_clear()
    assert config_of(with_engine) is not None
    assert caplog.messages == []
    machine.gpus = (Gpu(name="NVIDIA L4", capability="8.9"),)
    for _ in range(2):
        chosen = config_of(with_engine)
        assert chosen is not None
        assert chosen.backend == "onnxruntime"
    [warning] = caplog.messages
    assert "runs by ONNX Runtime's CUDA, and not by a TensorRT engine" in warning
    assert "for NVIDIA H200 (compute capability 9.0), and this is tensorrt 10.13.0 on NVIDIA L4 (8.9)" in warning
    machine.cuda = False
    assert config_of(with_engine) is None
    assert "runs on the CPU, and not by a TensorRT engine" in caplog.messages[1]
    caplog.clear()
    assert config_of(with_engine, precision="fp32") is None
    assert caplog.messages == [], "it has no engine in this precision"


UNTRUSTED = (
    r"model\.fp16\.engine came with the bundle, and TensorRT runs what is in it as machine code; if you built it, or trust who "
    r"did, allow it with trust_engines=True \(--trust-engines\), or build one here with: crossrt engines"
)


def test_an_engine_that_came_with_the_bundle_is_taken_when_it_is_trusted_alone(
    machine: Any, with_engine: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    warn_once.cache_clear()
    for _ in range(2):
        chosen = config_of(with_engine, trust_engines=False)
        assert chosen is not None
        assert (chosen.backend, chosen.trust_engines) == ("onnxruntime", False)
    [warning] = caplog.messages
    assert re.search("runs by ONNX Runtime's CUDA, and not by a TensorRT engine: " + UNTRUSTED, warning)
    for asked in ({"backend": "tensorrt"}, {"engine": "model.fp16.engine"}):
        with pytest.raises(BackendError, match=UNTRUSTED):
            config_of(with_engine, trust_engines=False, precision="fp16", **asked)
    assert (trusted := config_of(with_engine)) is not None
    assert (trusted.backend, trusted.trust_engines) == ("tensorrt", True)


def test_trusting_is_asked_for_again_when_the_engine_is_opened(
    machine: Any, with_engine: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select_gpu, "open_cuda", SimulatedGpu)
    monkeypatch.setattr(tensorrt, "TensorRtExecutor", lambda *_: pytest.fail("it was opened"))
    trusted = config_of(with_engine)
    assert trusted is not None
    with pytest.raises(BackendError, match=UNTRUSTED):
        open_executors(with_engine, replace(trusted, trust_engines=False))


def with_engines(bundle: Bundle, *changes: dict[str, Any]) -> Bundle:
    [engine] = bundle.manifest.engines
    return replace(
        bundle, manifest=replace(bundle.manifest, engines=tuple(replace(engine, **each) for each in changes))
    )


LOOSE = {"hardware_compatible": True, "version_compatible": True}
A100 = {"file": "a100.engine", "gpu": "NVIDIA A100", "capability": "8.0", "options": LOOSE}
L40 = {"file": "l40.engine", "gpu": "NVIDIA L40", "capability": "8.9", "options": LOOSE}
OLDER = {"file": "older.engine", "version": "10.9.0", "options": LOOSE}


@pytest.mark.parametrize(
    ("engines", "taken"),
    [
        ([A100, {}], "model.fp16.engine"),
        ([{}, A100], "model.fp16.engine"),
        ([A100 | {"version": "10.13.0"}, OLDER], "older.engine"),
        ([{}, OLDER], "model.fp16.engine"),
        ([OLDER, {}], "model.fp16.engine"),
        ([A100, L40], "a100.engine"),
        ([{"file": "model.fp32.engine", "precision": "fp32"}, {}], "model.fp16.engine"),
    ],
)
def test_of_several_engines_the_one_of_this_gpu_is_taken_and_the_newest(
    machine: Any, with_engine: Bundle, engines: list[dict[str, Any]], taken: str
) -> None:
    found, _ = select_gpu._engine(with_engines(with_engine, *engines), Precision.FP16, 0, trusted=True)
    assert found is not None
    assert found[1].file == taken


def test_an_engine_that_is_named_is_taken_and_no_other(
    machine: Any, with_engine: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = with_engines(with_engine, A100, {})
    chosen = config_of(bundle, engine="a100.engine")
    assert chosen is not None
    assert (chosen.backend, chosen.engine) == ("tensorrt", "a100.engine")
    opened: list[str] = []

    class Executor(SimulatedExecutor):
        def __init__(self, bundle: Bundle, file: EngineFile, cuda: Any) -> None:
            opened.append(file.file)
            super().__init__(cuda)

    monkeypatch.setattr(select_gpu, "open_cuda", SimulatedGpu)
    monkeypatch.setattr(tensorrt, "TensorRtExecutor", Executor)
    open_executors(bundle, chosen)
    assert opened == ["a100.engine"]
    with pytest.raises(BackendError, match=r"the bundle has no fp16 engine other\.engine"):
        config_of(bundle, engine="other.engine")
    machine.gpus = (Gpu(name="NVIDIA V100", capability="7.0"),)
    with pytest.raises(BackendError, match=r"a100\.engine was built by .* on NVIDIA V100"):
        config_of(bundle, engine="a100.engine")
    for others in ({"device": "cpu"}, {"backend": "onnxruntime"}, {"rebuild": True}):
        with pytest.raises(OptionError, match=r"engine='a100\.engine' names a TensorRT engine"):
            choose_execution(bundle, engine="a100.engine", **others)


def test_executors_and_devices_are_closed_when_a_later_one_does_not_open(
    machine: Any, with_engine: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices: list[SimulatedGpu] = []
    executors: list[SimulatedExecutor] = []

    def device(ordinal: int) -> SimulatedGpu:
        devices.append(SimulatedGpu(ordinal))
        return devices[-1]

    def executor(bundle: Bundle, file: EngineFile, cuda: Any) -> SimulatedExecutor:
        if executors:
            raise BackendError("the second engine cannot be loaded")
        executors.append(SimulatedExecutor(cuda))
        return executors[-1]

    monkeypatch.setattr(select_gpu, "open_cuda", device)
    monkeypatch.setattr(tensorrt, "TensorRtExecutor", executor)
    chosen = config_of(with_engine, device=["cuda:0", "cuda:1"])
    assert chosen is not None
    with pytest.raises(BackendError, match="the second engine"):
        open_executors(with_engine, chosen)
    assert [each.closed for each in (*executors, *devices)] == [True, True, True]


def test_a_config_of_an_unknown_backend_does_not_open(
    machine: Any, with_engine: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select_gpu, "open_cuda", SimulatedGpu)
    config = GpuConfig(backend="openvino", precision=Precision.FP16, reason="", ordinals=(0,))
    with pytest.raises(
        BackendError, match="no backend 'openvino' scores on a GPU; use one of tensorrt, native, onnxruntime"
    ):
        open_executors(with_engine, config)


def test_a_pair_longer_than_the_engine_takes_is_truncated_as_the_model_says(
    machine: Any, with_engine: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By the rule of the tokenizer: the longer text loses tokens first, and the special tokens stay."""
    executor = SimulatedExecutor(SimulatedGpu(), limits=((8, 16),))
    monkeypatch.setattr(select_gpu, "open_executors", lambda bundle, config: [executor])
    monkeypatch.setattr(cross_encoder, "bundle_from_source", lambda *_, **__: with_engine)
    pairs = [("how tall is k2", "a mountain in the north " * 9), ("what is k2", "a mountain")]
    with CrossEncoder("bundle", device="cuda", precision="fp16", trust_engines=True) as model:
        assert model.max_length == 16
        logits = model.logits(pairs)
        model.max_length = 12
        model.max_length = 40
        assert model.max_length == 16
        with pytest.raises(OptionError, match="the model has positions for"):
            model.max_length = 100_000
    with CrossEncoder("bundle", device="cpu", max_length=16) as reference:
        encoded = reference.encode(pairs)
    sums = [
        encoded.ids[a:b].sum() + encoded.type_ids[a:b].sum()
        for a, b in zip(encoded.offsets[:-1], encoded.offsets[1:], strict=True)
    ]
    assert logits[:, 0].tolist() == sums
    assert encoded.lengths[0] == 16
    warnings = [message for message in caplog.messages if "longer pairs are truncated" in message]
    assert ["takes 16 tokens" in message for message in warnings] == [True, True], (
        "once for each limit that was asked for"
    )


def test_fp32_unless_asked_otherwise(machine: Any, with_engine: Bundle) -> None:
    chosen = config_of(with_engine, precision=None)
    assert chosen is not None
    assert (chosen.backend, chosen.precision) == ("onnxruntime", Precision.FP32)


def test_a_device_that_is_not_there(machine: Any, with_engine: Bundle) -> None:
    with pytest.raises(BackendError, match="no device cuda:5; there are cuda:0 to cuda:1"):
        config_of(with_engine, device="cuda:5")
    machine.gpus = ()
    with pytest.raises(BackendError, match="no NVIDIA driver"):
        config_of(with_engine, device="cuda")
    assert config_of(with_engine) is None


def test_several_devices_each_once(machine: Any, with_engine: Bundle) -> None:
    chosen = config_of(with_engine, device=["cuda:0", "cuda:1"])
    assert chosen is not None
    assert chosen.device == "cuda:0, cuda:1"
    with pytest.raises(OptionError, match="each GPU once"):
        config_of(with_engine, device=["cuda:0", "cuda"])


@pytest.mark.parametrize("device", ["gpu:0", "cuda:x", "cuda:", "mps"])
def test_words_that_are_no_device(machine: Any, with_engine: Bundle, device: str) -> None:
    with pytest.raises(BackendError, match="use 'cpu', 'cuda'"):
        config_of(with_engine, device=device)


def test_bf16_says_why_each_backend_cannot(machine: Any, with_engine: Bundle) -> None:
    with pytest.raises(
        BackendError, match=r"tensorrt: the bundle has no bf16 engine(.|\n)*onnxruntime: does not compute"
    ):
        config_of(with_engine, precision="bf16", device="cuda")


def test_without_a_driver_nothing_is_found_and_nothing_of_nvidias_is_loaded(
    with_engine: Bundle, tmp_path: Path
) -> None:
    """TensorRT's runtime aborts a process without a driver, so it must not be loaded there."""
    if gpus():
        pytest.skip("there is a GPU here")
    copy = Path(shutil.copytree(with_engine.path, tmp_path / "bundle"))
    manifest = json.loads((copy / "manifest.json").read_text())
    [engine] = with_engine.manifest.engines
    (copy / engine.file).touch()
    manifest["engines"] = [asdict(replace(engine, precision="fp32"))]
    manifest["files"].append({"name": engine.file, "size": 0, "sha256": sha256_of(copy / engine.file)})
    (copy / "manifest.json").write_text(json.dumps(manifest))
    program = f"""
import sys
from crossrt import CrossEncoder
for backend in ("auto", "tensorrt"):
    try:
        CrossEncoder({str(copy)!r}, device="cuda", backend=backend)
    except Exception as error:
        print(error)
with CrossEncoder({str(copy)!r}) as model:
    print(model.device)
print([name for name in sys.modules if name.startswith(("tensorrt", "cuda.bindings", "pycuda"))])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second, device, loaded = done.stdout.splitlines()
    assert "no NVIDIA driver with a GPU was found" in first
    assert "no NVIDIA driver with a GPU was found" in second
    assert (device, loaded) == ("cpu", "[]")


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
    shutil.copy(copy / "onnx/model.onnx", copy / "for-gpus.onnx")
    opened = Bundle.open(copy)
    (copy / "onnx/model.onnx").write_bytes(b"not to be opened")
    models = {"fp32": replace(opened.manifest.models["fp32"], gpu_file="for-gpus.onnx")}
    opened = replace(opened, manifest=replace(opened.manifest, models=models))
    executor = OnnxRuntimeExecutor(opened, Precision.FP32, SimpleNamespace(ordinal=0), device="cpu")  # type: ignore[arg-type]
    executor.context(0, 0).close()


def test_onnxruntime_computes_in_memory_that_is_lent_to_it(bundle: Path) -> None:
    """Tested in CPU memory, which ONNX Runtime binds in the same way as GPU memory."""
    opened = Bundle.open(bundle)
    executor = OnnxRuntimeExecutor(opened, Precision.FP32, SimpleNamespace(ordinal=0), device="cpu")  # type: ignore[arg-type]
    context = executor.context(0, 0)
    rng = np.random.default_rng(0)
    with CrossEncoder(bundle) as model:
        for shape in ((2, 9), (5, 16), (1, 4)):
            arrays = {
                "input_ids": rng.integers(5, 40, shape),
                "attention_mask": np.ones(shape, np.int64),
                "token_type_ids": np.zeros(shape, np.int64),
            }
            logits = np.full((shape[0], 1), np.nan, np.float32)
            addresses = {name: arrays[name].ctypes.data for name in executor.layout.inputs} | {
                "logits": logits.ctypes.data
            }
            context.enqueue(shape, addresses)
            expected = model.run(Batch(**arrays, rows=np.arange(shape[0])))
            np.testing.assert_allclose(logits, expected, atol=2e-5)
    context.close()


class OnnxSession:
    """A session of ONNX Runtime on a GPU, with the methods that the executor calls."""

    def __init__(self, providers: list[Any], *, honoured: bool, on_cpu: bool) -> None:
        [(name, options)] = providers
        self.options = options if honoured else {**options, "user_compute_stream": "0"}
        self.providers = ["CPUExecutionProvider"] if on_cpu else [name, "CPUExecutionProvider"]
        self.waited: list[bool] = []

    def get_providers(self) -> list[str]:
        return self.providers

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        return {self.providers[0]: self.options}

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(shape=("batch", 1))]

    def io_binding(self) -> Any:
        return SimpleNamespace(bind_input=lambda *_: None, bind_output=lambda *_: None)

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        try:
            waits = options.get_run_config_entry("disable_synchronize_execution_providers") != "1"
        except RuntimeError:  # it was not set
            waits = True
        self.waited.append(waits)


@pytest.fixture
def onnx_on_gpu(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    def opened(*, honoured: bool = True, on_cpu: bool = False) -> Any:
        sessions: list[OnnxSession] = []

        def session(path: str, options: Any, providers: list[Any]) -> OnnxSession:
            sessions.append(OnnxSession(providers, honoured=honoured, on_cpu=on_cpu))
            return sessions[-1]

        monkeypatch.setattr(onnxruntime_cuda.onnxruntime, "InferenceSession", session)
        device = SimulatedGpu()
        executor = OnnxRuntimeExecutor(Bundle.open(bundle), Precision.FP32, device)
        with device.current():
            stream = device.create_stream()
            context = executor.context(stream, 0)
            device.log.clear()
            context.enqueue((1, 4), dict.fromkeys((*executor.layout.inputs, "logits"), 0))
        return SimpleNamespace(
            session=sessions[0], sessions=sessions, stream=stream, log=device.log, executor=executor, context=context
        )

    return opened


def test_onnxruntime_that_would_compute_on_the_cpu_is_refused(onnx_on_gpu: Callable[..., Any]) -> None:
    with pytest.raises(BackendError, match="found no CUDA libraries and would compute on the CPU: install"):
        onnx_on_gpu(on_cpu=True)


def test_onnxruntime_computes_fp32_as_fp32_on_the_lanes_stream(onnx_on_gpu: Callable[..., Any]) -> None:
    opened = onnx_on_gpu()
    assert opened.session.options["use_tf32"] == "0"
    assert opened.session.options["user_compute_stream"] == str(opened.stream)
    assert opened.session.waited == [False], "the lane does"
    assert "synchronize" not in opened.log


def test_all_contexts_of_a_lane_are_one_session(onnx_on_gpu: Callable[..., Any]) -> None:
    """Each graph has a context, but the contexts of a lane share one session and its weights."""
    opened = onnx_on_gpu()
    opened.executor.context(opened.stream, 0).close()
    opened.executor.context(opened.stream, 0)
    assert len(opened.sessions) == 1
    opened.executor.context(opened.stream + 1, 0)
    assert [each.options["user_compute_stream"] for each in opened.sessions] == [
        str(opened.stream),
        str(opened.stream + 1),
    ]


def test_what_cannot_be_captured_becomes_no_graph(onnx_on_gpu: Callable[..., Any]) -> None:
    """Where ONNX Runtime computes on its own stream, a graph of the lane's stream would hold only the copies."""
    opened = onnx_on_gpu(honoured=False)
    device = opened.executor.cuda
    with device.current():
        device.begin_capture(opened.stream)
        with pytest.raises(CudaError, match="CAPTURE"):
            opened.context.enqueue((1, 4), dict.fromkeys((*opened.executor.layout.inputs, "logits"), 0))


def test_onnxruntime_that_takes_a_stream_of_its_own_waits_and_is_waited_for(onnx_on_gpu: Callable[..., Any]) -> None:
    opened = onnx_on_gpu(honoured=False)
    assert opened.session.waited == [True]
    assert opened.log.count("synchronize") == 1, "what it reads must be there"
