"""What is found out about an engine before TensorRT, which crashes on what it did not write, sees it; and what it is told."""

import shutil
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from crossrt.engine.bundle import Bundle, BundleFile, sha256_of
from crossrt.engine.engine_file import EngineFile, profiles_for
from crossrt.engine.errors import BackendError, BundleError
from crossrt.engine.tensorrt import TensorRtExecutor

PLAN = b"a plan of TensorRT's"
FREE = 250_000_000


class Logger:
    ERROR, INTERNAL_ERROR, WARNING = "error", "internal error", "warning"


class Runtime:
    """TensorRT's, of what the executor uses. The real one takes the process down on bytes that it did not write."""

    engine_host_code_allowed = False

    def __init__(self, log: Any) -> None:
        self.log = log
        opened.append(self)

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        assert plan == PLAN, "the process would be gone"
        if refused:
            self.log.log(Logger.ERROR, "the plan is of another version")
            return None
        names = ["input_ids", "attention_mask", "token_type_ids", "logits"]
        return SimpleNamespace(
            num_io_tensors=4,
            get_tensor_name=lambda number: names[number],
            get_tensor_dtype=lambda name: "float" if name == "logits" else "int32",
            create_execution_context=lambda: None,
            device_memory_size_v2=400_000_000,
        )


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
        nptype=lambda kind: {"float": np.float32, "int32": np.int32}[kind],
    )
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    (copy / "model.fp32.engine").write_bytes(PLAN)
    engine = EngineFile(
        file="model.fp32.engine",
        precision="fp32",
        library="tensorrt",
        version="10.13.0",
        gpu="NVIDIA H200",
        capability="9.0",
        profiles=profiles_for(64),
        onnx_sha256="",
        build_seconds=1.0,
        options={},
    )
    found = Bundle.open(copy)
    file = BundleFile(name=engine.file, size=len(PLAN), sha256=sha256_of(copy / engine.file))
    return replace(found, manifest=replace(found.manifest, engines=(engine,), files=(*found.manifest.files, file)))


def open_executor(bundle: Bundle, **options: Any) -> TensorRtExecutor:
    cuda: Any = SimpleNamespace(memory=lambda: (FREE, 2 * FREE), current=nullcontext)
    [engine] = bundle.manifest.engines
    return TensorRtExecutor(bundle, replace(engine, options=options), cuda)


def test_inputs_are_of_the_types_that_the_engine_says(bundle_with_engine: Bundle) -> None:
    executor = open_executor(bundle_with_engine)
    assert set(executor.inputs.values()) == {np.dtype(np.int32)}
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


def test_too_little_memory_says_how_much_is_needed_and_what_to_lower(bundle_with_engine: Bundle) -> None:
    with pytest.raises(
        BackendError, match=r"needs 400 MB of device memory, and 250 MB are free.*--tokens or --max-length"
    ):
        open_executor(bundle_with_engine).context(7)


def test_code_in_an_engine_is_allowed_where_it_was_built_to_have_some(bundle_with_engine: Bundle) -> None:
    open_executor(bundle_with_engine)
    open_executor(bundle_with_engine, version_compatible=True)
    assert [runtime.engine_host_code_allowed for runtime in opened] == [False, True]
