"""TensorRT engines are checked before TensorRT reads them, since it crashes on damaged ones; and how they are run."""

import shutil
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from crossrt.engine.backends.tensorrt import TensorRtExecutor, max_bytes
from crossrt.engine.bundle.bundle import Bundle
from crossrt.engine.bundle.manifest import BundleFile
from crossrt.engine.bundle.profiles import profiles_for
from crossrt.engine.errors import BackendError, BundleError
from crossrt.engine.files.digests import sha256_of
from tests.engine.samples import engine_file

PLAN = b"a plan of TensorRT's"
FREE = 250_000_000


class Logger:
    ERROR, INTERNAL_ERROR, WARNING = "error", "internal error", "warning"


class Runtime:
    """The part of TensorRT that the executor uses. The real one aborts the process on bytes that it did not write."""

    engine_host_code_allowed = False

    def __init__(self, log: Any) -> None:
        self.log = log
        opened.append(self)

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        assert plan == PLAN, "the process would be gone"
        if refused:
            self.log.log(Logger.ERROR, "the plan is of another version")
            return None
        return Engine()


class Engine:
    """An engine of TensorRT 10 and later."""

    num_io_tensors = 4
    device_memory_size_v2 = 400_000_000

    def get_tensor_name(self, number: int) -> str:
        return ["input_ids", "attention_mask", "token_type_ids", "logits"][number]

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name="FLOAT" if name == "logits" else "INT32")

    def create_execution_context(self, strategy: str) -> Any:
        assert strategy == "user managed"
        return None if refused else Context()


class Engine86:
    """An engine of TensorRT 8.6."""

    num_io_tensors = 4
    device_memory_size = 400_000_000
    get_tensor_name, get_tensor_dtype = Engine.get_tensor_name, Engine.get_tensor_dtype

    def create_execution_context_without_device_memory(self) -> Any:
        return Context()


class Context:
    """Records the calls; refuses the calls named in `refusing` in the way of the bindings."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.refusing = ""
        self.device_memory: Any = None
        self.addresses: dict[str, int] = {}

    def set_device_memory(self, memory: int, size: int) -> None:
        self.device_memory = memory, size

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        if self.refusing == "profile":
            raise RuntimeError("Error in set optimization profile async.")
        self.told.append(("profile", profile, stream))
        return True

    def set_input_shape(self, name: str, shape: Any) -> bool:
        return self.refusing != "shape"

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return self.refusing != "address"

    def execute_async_v3(self, stream: int) -> bool:
        self.told.append(("execute", stream))
        return self.refusing != "execute"


opened: list[Runtime] = []
refused: list[bool] = []


@pytest.fixture
def bundle_with_engine(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    opened.clear()
    refused.clear()
    module = SimpleNamespace(
        __version__="10.13.0",
        ILogger=Logger,
        Runtime=Runtime,
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="user managed"),
    )
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", module)
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    (copy / "model.fp32.engine").write_bytes(PLAN)
    engine = engine_file(file="model.fp32.engine", precision="fp32")
    found = Bundle.open(copy)
    file = BundleFile(name=engine.file, size=len(PLAN), sha256=sha256_of(copy / engine.file))
    return replace(found, manifest=replace(found.manifest, engines=(engine,), files=(*found.manifest.files, file)))


def open_executor(bundle: Bundle, *, buckets: tuple[int, ...] = (64,), **options: Any) -> TensorRtExecutor:
    cuda: Any = SimpleNamespace(memory=lambda: (FREE, 2 * FREE), current=nullcontext)
    [engine] = bundle.manifest.engines
    return TensorRtExecutor(bundle, replace(engine, profiles=profiles_for(64, buckets=buckets), options=options), cuda)


def test_inputs_are_of_the_types_that_the_engine_says(bundle_with_engine: Bundle) -> None:
    executor = open_executor(bundle_with_engine)
    assert set(executor.layout.inputs.values()) == {np.dtype(np.int32)}
    assert executor.output == np.float32


@pytest.mark.parametrize("content", [PLAN[:-1], PLAN.upper(), b"", b"\x00" * len(PLAN)])
def test_a_plan_that_is_not_the_manifests_never_reaches_tensorrt(bundle_with_engine: Bundle, content: bytes) -> None:
    (bundle_with_engine.path / "model.fp32.engine").write_bytes(content)
    with pytest.raises(BundleError, match=r"model\.fp32\.engine was altered.*crossrt engines"):
        open_executor(bundle_with_engine)
    assert not opened


def test_what_tensorrt_says_is_told(bundle_with_engine: Bundle) -> None:
    refused.append(True)
    with pytest.raises(BackendError, match=r"cannot be loaded by tensorrt 10\.13\.0\n  TensorRT says: the plan is of"):
        open_executor(bundle_with_engine)


def test_a_context_that_is_not_made_says_what_to_lower(bundle_with_engine: Bundle) -> None:
    executor = open_executor(bundle_with_engine)
    refused.append(True)
    with pytest.raises(BackendError, match=r"250 MB of device memory free.*--tokens or --max-length"):
        executor.context(7, 4096)


def test_contexts_compute_in_the_memory_that_they_are_given(
    bundle_with_engine: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = open_executor(bundle_with_engine)
    assert executor.workspace == 400_000_000
    assert executor.context(7, 4096)._context.device_memory == (4096, 400_000_000)
    monkeypatch.delattr(sys.modules["tensorrt"], "ExecutionContextAllocationStrategy")
    monkeypatch.setattr(Runtime, "deserialize_cuda_engine", lambda self, plan: Engine86())
    executor = open_executor(bundle_with_engine)
    assert executor.workspace == 400_000_000
    assert executor.context(7, 4096)._context.device_memory == 4096


class UnfusedEngine(Engine):
    """An engine with unfused attention has the softmax of each layer as an output."""

    num_io_tensors = 6
    device_memory_size_v2 = 1_000

    def get_tensor_name(self, number: int) -> str:
        return [*(Engine.get_tensor_name(self, at) for at in range(4)), "layer.0.softmax", "layer.1.softmax"][number]

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name="HALF" if "softmax" in name else "FLOAT" if name == "logits" else "INT32")

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, 12, 1 if "layer.1" in name else -1, -1)


def test_what_nobody_reads_has_a_place_behind_what_the_engine_computes_in(
    bundle_with_engine: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Runtime, "deserialize_cuda_engine", lambda self, plan: UnfusedEngine())
    executor = open_executor(bundle_with_engine, buckets=(16,))
    assert set(executor.layout.inputs) == {"input_ids", "attention_mask", "token_type_ids"}
    rows, tokens = executor._profiles[-1].max
    assert (rows, tokens) == (128, 64)
    first, last = 2 * rows * 12 * tokens * tokens, 2 * rows * 12 * tokens
    assert executor.workspace == 1024 + first + last
    context = executor.context(7, 4096)._context
    assert context.device_memory == (4096, 1_000)
    assert context.addresses == {"layer.0.softmax": 4096 + 1024, "layer.1.softmax": 4096 + 1024 + first}
    monkeypatch.setattr(Context, "set_tensor_address", lambda self, name, address: False)
    with pytest.raises(BackendError, match=r"takes no memory for its output layer\.0\.softmax"):
        executor.context(7, 4096)


def test_the_largest_batch_is_the_one_that_takes_the_most() -> None:
    profiles = profiles_for(512)
    assert [profile.max for profile in profiles] == [(128, 64), (128, 128), (64, 256), (32, 512)]
    assert max_bytes((-1, 12, -1, -1), np.dtype(np.float16), profiles) == 2 * 32 * 12 * 512 * 512
    assert max_bytes((-1, 12, 1, -1), np.dtype(np.float32), profiles) == 4 * 64 * 12 * 256


ADDRESSES = {"input_ids": 1, "attention_mask": 2, "token_type_ids": 3, "logits": 4}


def test_a_profile_is_chosen_when_another_is_needed(bundle_with_engine: Bundle) -> None:
    context = open_executor(bundle_with_engine, buckets=(16,)).context(7, 4096)
    for shape in ((1, 16), (2, 10), (1, 20)):
        context.enqueue(shape, ADDRESSES)
    run = ("execute", 7)
    assert context._context.told == [("profile", 0, 7), run, run, ("profile", 1, 7), run]


@pytest.mark.parametrize("refusing", ["profile", "shape", "address", "execute"])
def test_a_batch_that_was_refused_is_refused_until_it_is_taken(bundle_with_engine: Bundle, refusing: str) -> None:
    context = open_executor(bundle_with_engine).context(7, 4096)
    context._context.refusing = refusing
    for _ in range(2):
        with pytest.raises(BackendError, match="TensorRT refused a batch of 1 x 16 tokens in profile 0"):
            context.enqueue((1, 16), ADDRESSES)
    context._context.refusing = ""
    context.enqueue((1, 16), ADDRESSES)
    assert [told for told in context._context.told if told[0] == "profile"] == [("profile", 0, 7)]


def test_rtx_has_no_graphs(bundle_with_engine: Bundle) -> None:
    """It allocates while it computes, which cannot be captured."""
    assert open_executor(bundle_with_engine).graphs > 0
    [engine] = bundle_with_engine.manifest.engines
    manifest = replace(bundle_with_engine.manifest, engines=(replace(engine, library="tensorrt_rtx"),))
    assert open_executor(replace(bundle_with_engine, manifest=manifest)).graphs == 0


def test_code_in_an_engine_is_allowed_where_it_was_built_to_have_some(bundle_with_engine: Bundle) -> None:
    open_executor(bundle_with_engine)
    open_executor(bundle_with_engine, version_compatible=True)
    assert [runtime.engine_host_code_allowed for runtime in opened] == [False, True]
