"""The systems that `gpu.py` measures: crossrt's backends, variants of them without one feature, and PyTorch as the peer."""

import argparse
import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from crossrt import Bundle, CrossEncoder
from crossrt.engine.backends.gpu_executor import GpuExecutor
from crossrt.engine.backends.onnxruntime_cuda import OnnxRuntimeExecutor
from crossrt.engine.backends.tensorrt import TensorRtExecutor
from crossrt.engine.precision import Precision
from crossrt.engine.selection import select_gpu
from crossrt.engine.selection.execution_config import GpuConfig
from crossrt.engine.selection.select import choose_execution

Pairs = Sequence[tuple[str, str]]
PEER = "sentence-transformers FP16"
WARM = 3
"""Warm-up passes. Requests begin at the first lane, and a lane's third batch of a shape is the first that runs as a CUDA
graph."""


Variant = Callable[[], contextlib.AbstractContextManager[None]]
"""Returns a context manager that changes a part of the backends while a model is opened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A system that scores pairs.

    `model` is crossrt's model, or None for PyTorch; `config` and `variant` tell how it was opened. `warm` is the number of
    warm-up passes.
    """

    score: Callable[[Pairs], Any]
    precision: Precision
    model: CrossEncoder | None = None
    config: GpuConfig | None = None
    variant: Variant = contextlib.nullcontext
    warm: int = WARM

    @contextlib.contextmanager
    def executor(self) -> Iterator[GpuExecutor]:
        """Open a second executor of the model (its engine, ONNX file or kernels), to measure it without the scorer."""
        assert self.model is not None
        assert self.config is not None
        with self.variant():
            [executor] = select_gpu.open_executors(self.model.bundle, self.config)
            try:
                yield executor
            finally:
                with executor.cuda.current():
                    executor.close()
                executor.cuda.close()


@contextlib.contextmanager
def without_graphs(backend: str) -> Iterator[None]:
    """Models opened in this context capture no CUDA graphs."""
    executors: list[Any] = [TensorRtExecutor, OnnxRuntimeExecutor]
    if backend == "native":  # which needs cuda-bindings
        from crossrt.engine.backends.native_cuda import NativeGpuExecutor

        executors.append(NativeGpuExecutor)
    with contextlib.ExitStack() as patched:
        for executor in executors:
            patched.enter_context(patch.object(executor, "graphs", 0))
        yield


@contextlib.contextmanager
def with_one_lane() -> Iterator[None]:
    """ONNX Runtime models opened in this context compute one batch at a time."""
    with patch.object(OnnxRuntimeExecutor, "lanes", 1):
        yield


def opened(
    bundle: Path, folder: Path, number: int, arguments: argparse.Namespace, length: int
) -> tuple[dict[str, System], list[dict[str, Any]]]:
    """Open all systems. Return those that run, and a row for every system, with the reason if it does not run."""
    wanted: dict[str, Callable[[], System]] = {}

    def ours(backend: str, precision: str, path: Path = bundle, variant: Variant = contextlib.nullcontext) -> System:
        # The engines can be trusted: they were built here, or are in a bundle that the user named.
        options: dict[str, Any] = {"allow_failed": True, "trust_engines": True}
        options |= {"device": arguments.device, "backend": backend, "precision": precision}
        with variant():
            model = CrossEncoder(path, max_length=length, **options)
        config = choose_execution(model.bundle, **options)
        assert isinstance(config, GpuConfig)
        return System(score=model.logits, precision=model.precision, model=model, config=config, variant=variant)

    def peer(compiled: bool) -> System:
        checkpoint = arguments.checkpoint[number]
        score = sentence_transformers(checkpoint, arguments.device, "float16", length, compiled=compiled)
        return System(score=score, precision=Precision.FP16, warm=2)

    for backend in ("tensorrt", "onnxruntime"):
        for precision in arguments.precisions.split(","):
            wanted[f"crossrt {precision.upper()}, {backend}"] = lambda b=backend, p=precision: ours(b, p)  # type: ignore[misc]
    if "fp16" in arguments.precisions.split(","):
        wanted["crossrt FP16, native"] = lambda: ours("native", "fp16")
        for backend in ("tensorrt", "native", "onnxruntime"):
            wanted[f"crossrt FP16, {backend}, without graphs"] = lambda b=backend: ours(  # type: ignore[misc]
                b, "fp16", variant=lambda: without_graphs(b)
            )
        wanted["crossrt FP16, onnxruntime, one lane"] = lambda: ours("onnxruntime", "fp16", variant=with_one_lane)
        wanted["crossrt FP16, onnxruntime, plain graph"] = lambda: ours(
            "onnxruntime", "fp16", without_fused_files(bundle, folder / "plain")
        )
    if number < len(arguments.checkpoint):
        wanted[PEER] = lambda: peer(False)
        if not arguments.no_compile:
            wanted[f"{PEER}, torch.compile"] = lambda: peer(True)
    systems: dict[str, System] = {}
    rows = []
    for name, open_one in wanted.items():
        row: dict[str, Any] = {"system": name}
        rows.append(row)
        try:
            system = open_one()
            system.score([("warm", "one"), ("warm", "two")])
            systems[name] = system
        except Exception as error:
            row["failed"] = said(error)
    return systems, rows


def without_fused_files(bundle: Path, folder: Path) -> Path:
    """Copy a bundle without the files with ONNX Runtime's fused operators."""
    copy = Path(shutil.copytree(bundle, folder))
    manifest = Bundle.open(copy).manifest
    models = {name: replace(model, fused_file=None) for name, model in manifest.models.items()}
    (copy / "manifest.json").write_text(replace(manifest, models=models).to_json(), encoding="utf-8")
    return copy


def sentence_transformers(
    checkpoint: Path, device: str, dtype: str, length: int, *, compiled: bool = False
) -> Callable[[Pairs], Any]:
    """PyTorch through sentence-transformers: SDPA, batches sorted by length."""
    import torch
    from sentence_transformers import CrossEncoder as Peer

    model = Peer(str(checkpoint), device=device, max_length=length, model_kwargs={"dtype": getattr(torch, dtype)})
    if compiled:
        model.model.forward = torch.compile(model.model.forward, dynamic=True)
    plain = torch.nn.Identity()
    return lambda pairs: model.predict(pairs, activation_fn=plain, batch_size=128)


def said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:2000]
