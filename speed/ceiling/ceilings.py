"""`ceilings` measures the best rates at which any installed kernel multiplies matrices and reads memory."""

import importlib.util
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import repeat

from ...engine.errors import BackendError, MeasurementError
from ..result.speeds import Ceiling, Speed
from . import kernels as installed_kernels
from .kernels import Call, Multiply, Read, Shape

QUANTITIES = ("fp32", "bf16", "int8", "memory")
SECONDS = 0.2
"""Length of one stretch of a measurement. A kernel's rate is its best of three stretches."""


def ceilings(
    threads: int,
    *,
    device: str = "cpu",
    kernels: Mapping[str, Sequence[str]] | None = None,
    seconds: float = SECONDS,
) -> list[Ceiling]:
    """Measure the rates that this machine reaches with `threads` threads. Each thread runs its own kernel call, as streams do.

    `kernels` names the kernels to measure for each quantity; without it, all installed ones are measured. A quantity that nothing
    here can measure is left out. INT8 in a runtime includes the quantization of the activations, as in a model; PyTorch's starts
    from integers. On a GPU the kernels are PyTorch's, and the quantities those that it has. `seconds` is the length of one
    stretch. Raises BackendError without the package onnx.
    """
    if importlib.util.find_spec("onnx") is None:
        raise BackendError('the ceiling needs onnx: pip install "crossrt[report]"')
    found = []
    for quantity in QUANTITIES:
        wanted = None if kernels is None else kernels.get(quantity, ())
        rates = _rates(quantity, threads, device, wanted, seconds)
        if rates:
            by = max(rates, key=rates.__getitem__)
            unit = "GB/s" if quantity == "memory" else "GFLOP/s"
            found.append(
                Ceiling(
                    quantity=quantity, unit=unit, threads=threads, rate=rates[by], by=by, rates=rates, device=device
                )
            )
    return found


def _rates(quantity: str, threads: int, device: str, wanted: Sequence[str] | None, seconds: float) -> dict[str, float]:
    """Return the rate of each kernel that can measure a quantity, by name."""
    found: dict[str, float | None] = {}
    if quantity == "memory":
        for name, read in installed_kernels.reading(device).items():
            if wanted is None or name in wanted:
                found[name] = _memory_rate(read, threads, seconds)
    else:
        for name, multiply in installed_kernels.multiplying(device).items():
            if wanted is None or name in wanted:
                found[name] = _matrix_rate(multiply, quantity, threads, device, seconds)
    return {name: rate for name, rate in found.items() if rate is not None}


def higher(before: Sequence[Ceiling], after: Sequence[Ceiling]) -> list[Ceiling]:
    """Return the ceilings of `before`, with the higher of the two rates of every kernel."""
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
    """Measure the best kernel of each ceiling again, and return the ceilings with the higher rates."""
    found: list[Ceiling] = []
    for threads, device in dict.fromkeys((one.threads, one.device) for one in ceilings_before):
        best = {one.quantity: [one.by] for one in ceilings_before if (one.threads, one.device) == (threads, device)}
        found += ceilings(threads, device=device, kernels=best, seconds=seconds)
    return higher(ceilings_before, found)


def ceiling_of(row: Speed, found: Sequence[Ceiling]) -> Ceiling | None:
    """Return the ceiling for a row's precision, threads and device, or None if it was not measured.

    FP16 is computed in FP32 on a CPU. On a GPU it is as fast as BF16.
    """
    quantity = row.precision if row.precision != "fp16" else ("fp32" if row.device == "cpu" else "bf16")
    for one in found:
        same_threads = one.threads == row.threads or row.device != "cpu"
        if one.quantity == quantity and one.device == row.device and same_threads:
            return one
    return None


def check_share(what: str, share: float, ceiling: Ceiling, *, noise: float = 0.0) -> None:
    """Raise MeasurementError for a share above 1 by more than the machine's `noise`: then a rate was measured wrongly.

    The ceiling and the row are measured at different times, and the machine's speed varies by `noise` in between.
    """
    if share > 1 + noise:
        raise MeasurementError(
            f"{what} is at {share:.2f} of the {ceiling.quantity} ceiling, {ceiling.rate:,.0f} {ceiling.unit} by {ceiling.by}: "
            "nothing can be above it, so this run is invalid. Something else was at work on the machine while the ceiling "
            "was measured; run again"
        )


def _matrix_rate(make: Multiply, quantity: str, threads: int, device: str, seconds: float) -> float | None:
    """Return GFLOP/s of the best shape. Each shape is tried briefly, and the best is measured in three stretches."""
    at_once = threads if device == "cpu" else 1
    tried: dict[Shape, tuple[float, Call]] = {}
    for shape in installed_kernels.shapes_of(device):
        call = make(shape, quantity, threads, device)
        if call is None:
            return None
        call()  # warm-up
        operations = 2 * shape[0] * shape[1] * shape[2] / 1e9
        tried[shape] = operations * calls_a_second([call] * at_once, seconds / 4), call
    best = max(tried, key=lambda shape: tried[shape][0])
    operations = 2 * best[0] * best[1] * best[2] / 1e9
    calls = [tried[best][1]] * at_once
    return max(operations * calls_a_second(calls, seconds) for _ in range(3))


def _memory_rate(make: Read, threads: int, seconds: float) -> float | None:
    """Return GB/s of reading an array larger than any cache. Each thread reads a part of it."""
    calls = make(threads)
    if calls is None:
        return None
    for call in calls:
        call()
    size = installed_kernels.read_bytes() / 1e9 / len(calls)
    return max(size * calls_a_second(calls, seconds) for _ in range(3))


def calls_a_second(calls: Sequence[Call], seconds: float) -> float:
    """Run each call repeatedly in its own thread. Return the number of calls per second of all threads together."""

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
