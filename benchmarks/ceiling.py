"""The machine's own ceiling: the best rate at which any installed kernel multiplies matrices."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

SHAPES = ((1024, 1024, 1024), (768, 384, 1536), (768, 1536, 384), (768, 384, 1152))
"""Rows, inner and columns: a large square and a MiniLM's own linear layers with eight pairs of 96 tokens."""
SECONDS = 0.4


def matrix_rates(threads: int) -> dict[str, float]:
    """Return GFLOP/s of FP32 and INT8, each the best of ONNX Runtime (MLAS), OpenVINO and PyTorch (oneDNN) over the shapes.

    A thread for each processor multiplies matrices of its own, as streams do. INT8 in a runtime counts the quantization
    of the activations, as a model must; PyTorch's has integers already.
    """
    return {
        precision: round(max(rate(shape, precision, backend, threads) for shape in SHAPES for backend in BACKENDS), 1)
        for precision in ("fp32", "int8")
    }


def rate(shape: tuple[int, int, int], precision: str, backend: str, threads: int) -> float:
    """Return GFLOP/s of one shape: the best of three stretches."""
    call = BACKENDS[backend](shape, precision, threads)
    x = np.random.default_rng(0).standard_normal(shape[:2], dtype=np.float32)

    def work(until: float) -> int:
        done = 0
        while time.perf_counter() < until:
            call(x)
            done += 1
        return done

    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(4):  # the first warms up
            begin = time.perf_counter()
            done = sum(pool.map(work, [begin + SECONDS] * threads))
            best = max(best, done * 2 * shape[0] * shape[1] * shape[2] / (time.perf_counter() - begin) / 1e9)
    return best


def _graph(shape: tuple[int, int, int], precision: str) -> bytes:
    _, inner, columns = shape
    weights = np.random.default_rng(1).standard_normal((inner, columns), dtype=np.float32)
    constants, nodes, factors = [], [], ["x", "w"]
    if precision == "int8":
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


def _by_onnxruntime(shape: tuple[int, int, int], precision: str, threads: int) -> Any:
    import onnxruntime

    from crossrt.engine.onnxruntime import session_options

    session = onnxruntime.InferenceSession(
        _graph(shape, precision), session_options(1), providers=["CPUExecutionProvider"]
    )
    return lambda x: session.run(["y"], {"x": x})


def _by_openvino(shape: tuple[int, int, int], precision: str, threads: int) -> Any:
    import queue

    import openvino

    core = openvino.Core()
    properties = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": threads, "INFERENCE_NUM_THREADS": threads}
    compiled = core.compile_model(core.read_model(_graph(shape, precision)), "CPU", properties)
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for _ in range(threads):
        requests.put(compiled.create_infer_request())

    def call(x: Any) -> None:
        request = requests.get()
        request.infer({"x": x}, share_inputs=True)
        requests.put(request)

    return call


def _by_torch(shape: tuple[int, int, int], precision: str, threads: int) -> Any:
    import torch

    rows, inner, columns = shape
    if precision == "int8":
        left = torch.randint(-100, 100, (rows, inner), dtype=torch.int8)
        right = torch.randint(-100, 100, (inner, columns), dtype=torch.int8)
        multiply = torch._int_mm
    else:
        left, right, multiply = torch.randn(rows, inner), torch.randn(inner, columns), torch.mm

    def call(x: Any) -> None:
        torch.set_num_threads(1)  # for the thread that calls
        multiply(left, right)

    return call


BACKENDS = {"onnxruntime": _by_onnxruntime, "openvino": _by_openvino, "torch": _by_torch}
