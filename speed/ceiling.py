"""The machine's own ceilings: the best rates at which any installed kernel multiplies matrices, and reads memory."""

import importlib.util
import os
import queue
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import repeat
from typing import Any

import numpy as np

from ..engine.errors import BackendError, MeasurementError
from .result import Ceiling, Speed

QUANTITIES = ("fp32", "bf16", "int8", "memory")
SHAPES = ((1024, 1024, 1024), (768, 384, 1536), (768, 1536, 384), (768, 384, 1152))
"""Rows, inner and columns: a large square and a MiniLM's own linear layers with eight pairs of 96 tokens."""
GPU_SHAPES = ((8192, 8192, 8192), (16_384, 1024, 4096))
READ_BYTES = 512 << 20
"""The least that memory's rate is read from; eight times the last cache where that is more."""
SECONDS = 0.2
"""One stretch of a measurement; a kernel's rate is its best of three."""

PROBE_CALLS = 8
"""Products of one probe, about 65 ms: of one or two, what is measured is how soon threads wake up."""
FEWEST_PROBES = 10

Shape = tuple[int, int, int]
Call = Callable[[], object]
"""One piece of work; several threads may call at once."""


def ceilings(
    threads: int,
    *,
    device: str = "cpu",
    kernels: Mapping[str, Sequence[str]] | None = None,
    seconds: float = SECONDS,
) -> list[Ceiling]:
    """Measure what this machine reaches with so many threads: each a kernel of its own at work, as streams do.

    `kernels` names those to measure of each quantity; all that are installed unless given. A quantity that nothing here
    can measure is left out. INT8 in a runtime counts the quantization of the activations, as a model must; PyTorch's
    has integers already. On a GPU the kernels are PyTorch's, and the quantities those that it has. Raises BackendError
    without the package onnx.
    """
    if importlib.util.find_spec("onnx") is None:
        raise BackendError('the ceiling needs onnx: pip install "crossrt[report]"')
    on_gpu = device != "cpu"
    found = []
    for quantity in QUANTITIES:
        rates = {}
        for name, make in _kernels(quantity, on_gpu).items():
            if kernels is None or name in kernels.get(quantity, ()):
                rate = _memory_rate(make, threads, seconds) if quantity == "memory" else None
                if quantity != "memory":
                    rate = _matrix_rate(make, quantity, threads, device, seconds)
                if rate is not None:
                    rates[name] = rate
        if rates:
            by = max(rates, key=rates.__getitem__)
            unit = "GB/s" if quantity == "memory" else "GFLOP/s"
            found.append(
                Ceiling(
                    quantity=quantity, unit=unit, threads=threads, rate=rates[by], by=by, rates=rates, device=device
                )
            )
    return found


def higher(before: Sequence[Ceiling], after: Sequence[Ceiling]) -> list[Ceiling]:
    """Return each ceiling of `before` at the higher of the two rates of every kernel."""
    merged = []
    for one in before:
        rates = dict(one.rates)
        for other in after:
            if (other.quantity, other.threads, other.device) == (one.quantity, one.threads, one.device):
                rates = {name: max(rates.get(name, 0.0), other.rates.get(name, 0.0)) for name in {*rates, *other.rates}}
        by = max(rates, key=rates.__getitem__)
        merged.append(replace(one, rates=rates, by=by, rate=rates[by]))
    return merged


def again(ceilings_before: Sequence[Ceiling], *, seconds: float = SECONDS) -> list[Ceiling]:
    """Measure the best kernel of each ceiling once more, and return the higher rates."""
    found: list[Ceiling] = []
    for threads, device in dict.fromkeys((one.threads, one.device) for one in ceilings_before):
        best = {one.quantity: [one.by] for one in ceilings_before if (one.threads, one.device) == (threads, device)}
        found += ceilings(threads, device=device, kernels=best, seconds=seconds)
    return higher(ceilings_before, found)


def ceiling_of(row: Speed, found: Sequence[Ceiling]) -> Ceiling | None:
    """Return the ceiling of a row's precision, threads and device, or None where it is unmeasured.

    FP16 is computed in FP32 on a CPU, and as fast as BF16 on a GPU.
    """
    quantity = row.precision if row.precision != "fp16" else ("fp32" if row.device == "cpu" else "bf16")
    for one in found:
        same_threads = one.threads == row.threads or row.device != "cpu"
        if one.quantity == quantity and one.device == row.device and same_threads:
            return one
    return None


def check_share(what: str, share: float, ceiling: Ceiling) -> None:
    """Raise MeasurementError for a rate above the machine's own: one of the two was measured wrong."""
    if share > 1:
        raise MeasurementError(
            f"{what} is at {share:.2f} of the {ceiling.quantity} ceiling, {ceiling.rate:,.0f} {ceiling.unit} by {ceiling.by}: "
            "nothing can be above it, so this run is invalid. Something else was at work on the machine while the ceiling "
            "was measured; run again"
        )


class Probe:
    """One fixed piece of matrix work, timed again and again: how much the machine itself varies."""

    def __init__(self, threads: int) -> None:
        make = next(make for name, make in _kernels("fp32", False).items() if _installed(name))
        call = make(SHAPES[1], "fp32", threads, "cpu")
        assert call is not None, "every runtime multiplies in FP32"
        self._call: Call = call
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads)
        self.seconds: list[float] = []
        self.run()
        self.seconds.clear()  # the first one warms up

    def run(self) -> None:
        """Time it once more."""
        begin = time.perf_counter()
        list(self._pool.map(lambda call: [call() for _ in range(PROBE_CALLS)], repeat(self._call, self._threads)))
        self.seconds.append(time.perf_counter() - begin)

    @property
    def noise(self) -> float:
        """The 95th percentile over the median, less 1; of at least ten times."""
        while len(self.seconds) < FEWEST_PROBES:
            self.run()
        return float(np.percentile(self.seconds, 95) / np.median(self.seconds) - 1)

    def close(self) -> None:
        """End its threads. May be called again."""
        self._pool.shutdown()


def _matrix_rate(make: Any, quantity: str, threads: int, device: str, seconds: float) -> float | None:
    """GFLOP/s of the best shape: all are tried for a moment, and the best gets three stretches."""
    on_gpu = device != "cpu"
    tried: dict[Shape, tuple[float, Call]] = {}
    for shape in GPU_SHAPES if on_gpu else SHAPES:
        call = make(shape, quantity, threads, device)
        if call is None:
            return None
        call()  # the first one warms up
        operations = 2 * shape[0] * shape[1] * shape[2] / 1e9
        tried[shape] = operations * _calls_a_second([call] * (1 if on_gpu else threads), seconds / 4), call
    best = max(tried, key=lambda shape: tried[shape][0])
    operations = 2 * best[0] * best[1] * best[2] / 1e9
    calls = [tried[best][1]] * (1 if on_gpu else threads)
    return max(operations * _calls_a_second(calls, seconds) for _ in range(3))


def _memory_rate(make: Any, threads: int, seconds: float) -> float | None:
    """GB/s of reading an array that no cache holds, each thread a part of its own."""
    calls = make(threads)
    if calls is None:
        return None
    for call in calls:
        call()
    size = read_bytes() / 1e9 / len(calls)
    return max(size * _calls_a_second(calls, seconds) for _ in range(3))


def _calls_a_second(calls: Sequence[Call], seconds: float) -> float:
    """Each call in a thread of its own, again and again; how many all threads did together."""

    def work(call: Call, until: float) -> int:
        done = 0
        while time.perf_counter() < until:
            call()
            done += 1
        return done

    with ThreadPoolExecutor(len(calls)) as pool:
        begin = time.perf_counter()
        done = sum(pool.map(work, calls, repeat(begin + seconds)))
        return done / (time.perf_counter() - begin)


def read_bytes() -> int:
    """Return the bytes of the array that memory's rate is read from."""
    try:
        cache = os.sysconf("SC_LEVEL3_CACHE_SIZE")
    except (ValueError, OSError):
        cache = 0
    return max(READ_BYTES, 8 * cache)


# -- kernels


def _kernels(quantity: str, on_gpu: bool) -> dict[str, Any]:
    """What may measure a quantity, by its name; each gives None where it cannot."""
    if on_gpu:
        return {"torch": _memory_by_torch if quantity == "memory" else _by_torch}
    if quantity == "memory":
        return {"numpy max": _memory_by(np.max), "numpy sum": _memory_by(np.sum)}
    return {"onnxruntime": _by_onnxruntime, "openvino": _by_openvino, "torch": _by_torch}


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _graph(shape: Shape, quantity: str) -> bytes:
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
    return np.random.default_rng(0).standard_normal(shape[:2], dtype=np.float32)


def _by_onnxruntime(shape: Shape, quantity: str, threads: int, device: str) -> Call | None:
    if quantity == "bf16" or not _installed("onnxruntime"):
        return None
    from ..engine.backends.onnxruntime_cpu import session_options
    from ..engine.process.telemetry import telemetry_off

    with telemetry_off():
        import onnxruntime

    session = onnxruntime.InferenceSession(
        _graph(shape, quantity), session_options(1), providers=["CPUExecutionProvider"]
    )
    x = _left(shape)
    return lambda: session.run(["y"], {"x": x})


def _by_openvino(shape: Shape, quantity: str, threads: int, device: str) -> Call | None:
    if not _installed("openvino"):
        return None
    from ..engine.process.telemetry import telemetry_off

    with telemetry_off():
        import openvino

    core = openvino.Core()
    if quantity == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return None  # it would compute in FP32 without a word
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
    if not _installed("torch"):
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
        torch.set_num_threads(1)  # for the thread that calls
        multiply(left, right)

    def on_gpu() -> None:
        # TF32 is what runtimes take for FP32 unless told otherwise, so it is FP32's ceiling too.
        torch.backends.cuda.matmul.allow_tf32 = True
        multiply(left, right)
        torch.cuda.synchronize(device)

    return on_cpu if device == "cpu" else on_gpu


def _memory_by(read: Any) -> Callable[[int], list[Call]]:
    def make(threads: int) -> list[Call]:
        parts = np.array_split(np.ones(read_bytes() // 4, dtype=np.float32), threads)
        return [lambda part=part: read(part) for part in parts]  # type: ignore[misc]

    return make


def _memory_by_torch(threads: int) -> list[Call] | None:
    if not _installed("torch"):
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    whole = torch.ones(read_bytes() // 4, device="cuda")

    def call() -> None:
        whole.max()
        torch.cuda.synchronize()

    return [call]
