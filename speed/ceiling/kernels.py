"""Kernels that measure ceilings: matrix products and memory reads with the installed packages."""

import importlib.util
import os
import queue
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

SHAPES = ((1024, 1024, 1024), (768, 384, 1536), (768, 1536, 384), (768, 384, 1152))
"""Rows, inner dimension and columns: a large square, and MiniLM's linear layers with eight pairs of 96 tokens."""
GPU_SHAPES = ((8192, 8192, 8192), (16_384, 1024, 4096))
READ_BYTES = 512 << 20
"""Least size of the array that measures the memory's rate. It is eight times the last-level cache if that is more."""

Shape = tuple[int, int, int]
Call = Callable[[], object]
"""One piece of work. Several threads may call it at once."""
Multiply = Callable[[Shape, str, int, str], Call | None]
"""Makes the matrix product for a shape, quantity, number of threads and device, or returns None if it cannot."""
Read = Callable[[int], Sequence[Call] | None]
"""Makes the memory reads for a number of threads, each of its own part, or returns None if it cannot."""


def multiplying(device: str) -> Mapping[str, Multiply]:
    """Return the functions that make matrix products on a device, by package name."""
    if device != "cpu":
        return {"torch": _by_torch}
    return {"onnxruntime": _by_onnxruntime, "openvino": _by_openvino, "torch": _by_torch}


def reading(device: str) -> Mapping[str, Read]:
    """Return the functions that make memory reads on a device, by name."""
    if device != "cpu":
        return {"torch": _memory_by_torch}
    return {"numpy max": reads_by(np.max), "numpy sum": reads_by(np.sum)}


def shapes_of(device: str) -> Sequence[Shape]:
    """Return the shapes of the products that are tried on a device."""
    return SHAPES if device == "cpu" else GPU_SHAPES


def read_bytes() -> int:
    """Return the size in bytes of the array that measures the memory's rate."""
    try:
        cache = os.sysconf("SC_LEVEL3_CACHE_SIZE")
    except (ValueError, OSError):
        cache = 0
    return max(READ_BYTES, 8 * cache)


def installed(package: str) -> bool:
    """Tell whether a package is installed."""
    return importlib.util.find_spec(package) is not None


def _graph(shape: Shape, quantity: str) -> bytes:
    """Return an ONNX model of one product with constant weights. For INT8 it is quantized like exported models."""
    import onnx
    from onnx import TensorProto, helper

    _, inner, columns = shape
    weights = np.random.default_rng(1).standard_normal((inner, columns), dtype=np.float32)
    constants, nodes, factors = [], [], ["x", "w"]
    if quantity == "int8":
        constants += [
            helper.make_tensor("scale", TensorProto.FLOAT, [], [0.03]),
            helper.make_tensor("scales", TensorProto.FLOAT, [columns], [0.03] * columns),
            helper.make_tensor("zero", TensorProto.INT8, [], [0]),
            helper.make_tensor("zeros", TensorProto.INT8, [columns], [0] * columns),
            onnx.numpy_helper.from_array(np.clip(weights / 0.03, -127, 127).astype(np.int8), "w8"),
        ]
        nodes += [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["x8"]),
            helper.make_node("DequantizeLinear", ["x8", "scale", "zero"], ["xd"]),
            helper.make_node("DequantizeLinear", ["w8", "scales", "zeros"], ["wd"], axis=1),
        ]
        factors = ["xd", "wd"]
    else:
        constants.append(onnx.numpy_helper.from_array(weights, "w"))
    nodes.append(helper.make_node("MatMul", factors, ["y"]))
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", inner])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", columns])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def _left(shape: Shape) -> Any:
    """Return the left factor, float32 [rows, inner]."""
    return np.random.default_rng(0).standard_normal(shape[:2], dtype=np.float32)


def _by_onnxruntime(shape: Shape, quantity: str, threads: int, device: str) -> Call | None:
    if quantity == "bf16" or not installed("onnxruntime"):
        return None
    from ...engine.backends.onnxruntime_cpu import session_options
    from ...engine.process.telemetry import telemetry_off

    with telemetry_off():
        import onnxruntime

    session = onnxruntime.InferenceSession(
        _graph(shape, quantity), session_options(1), providers=["CPUExecutionProvider"]
    )
    x = _left(shape)
    return lambda: session.run(["y"], {"x": x})


def _by_openvino(shape: Shape, quantity: str, threads: int, device: str) -> Call | None:
    if not installed("openvino"):
        return None
    from ...engine.process.openvino_bindings import openvino

    core = openvino.Core()
    if quantity == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return None  # OpenVINO would silently compute in FP32
    properties = {
        "INFERENCE_PRECISION_HINT": "bf16" if quantity == "bf16" else "f32",
        "NUM_STREAMS": threads,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,
    }
    compiled = core.compile_model(core.read_model(_graph(shape, quantity)), "CPU", properties)
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for _ in range(threads):
        requests.put(compiled.create_infer_request())
    x = _left(shape)

    def call() -> None:
        request = requests.get()
        request.infer({"x": x}, share_inputs=True)
        requests.put(request)

    return call


def _by_torch(shape: Shape, quantity: str, threads: int, device: str) -> Call | None:
    if not installed("torch"):
        return None
    import torch

    if device != "cpu" and not torch.cuda.is_available():
        return None
    rows, inner, columns = shape
    multiply: Any = torch.mm
    if quantity == "int8":
        left = torch.randint(-100, 100, (rows, inner), dtype=torch.int8, device=device)
        right = torch.randint(-100, 100, (inner, columns), dtype=torch.int8, device=device)
        multiply = torch._int_mm
    else:
        kind = torch.bfloat16 if quantity == "bf16" else torch.float32
        left, right = (
            torch.randn(rows, inner, dtype=kind, device=device),
            torch.randn(inner, columns, dtype=kind, device=device),
        )

    def on_cpu() -> None:
        torch.set_num_threads(1)  # for the calling thread
        multiply(left, right)

    def on_gpu() -> None:
        # Runtimes use TF32 for FP32 by default, so its rate is FP32's ceiling too.
        torch.backends.cuda.matmul.allow_tf32 = True
        multiply(left, right)
        torch.cuda.synchronize(device)

    return on_cpu if device == "cpu" else on_gpu


def reads_by(read: Callable[..., object]) -> Read:
    """Return a function that makes reads of a float32 array. Each thread passes its own part to `read`."""

    def make(threads: int) -> list[Call]:
        parts = np.array_split(np.ones(read_bytes() // 4, dtype=np.float32), threads)
        return [lambda part=part: read(part) for part in parts]  # type: ignore[misc]

    return make


def _memory_by_torch(threads: int) -> list[Call] | None:
    if not installed("torch"):
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    whole = torch.ones(read_bytes() // 4, device="cuda")

    def call() -> None:
        whole.max()
        torch.cuda.synchronize()

    return [call]
