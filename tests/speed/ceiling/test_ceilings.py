"""The machine's ceilings: measured by every kernel there is, unmeasured where there is none, never exceeded."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from crossrt.engine.errors import BackendError, MeasurementError
from crossrt.speed.ceiling import kernels
from crossrt.speed.ceiling.ceilings import again, calls_a_second, ceiling_of, ceilings, check_share, higher
from crossrt.speed.ceiling.probe import Probe
from crossrt.speed.ceiling.shares import with_shares
from crossrt.speed.result.speeds import Ceiling

Make = Callable[..., Any]
pytestmark = pytest.mark.usefixtures("quick_machine")


def test_every_quantity_is_the_best_of_its_kernels() -> None:
    found = {one.quantity: one for one in ceilings(1, seconds=0.02)}
    assert {"fp32", "int8", "memory"} <= set(found)
    assert set(found["fp32"].rates) >= {"onnxruntime", "openvino"}
    for one in found.values():
        assert one.rate == max(one.rates.values()) == one.rates[one.by] > 0
        assert one.threads == 1
    assert found["memory"].unit == "GB/s"
    assert found["int8"].unit == "GFLOP/s"


def test_without_torch_the_runtimes_alone_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = kernels.installed
    monkeypatch.setattr(kernels, "installed", lambda name: name != "torch" and installed(name))
    assert all("torch" not in one.rates for one in ceilings(1, seconds=0.01))


def test_what_nothing_here_can_compute_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    only = {"onnxruntime": kernels.multiplying("cpu")["onnxruntime"]}
    monkeypatch.setattr(kernels, "multiplying", lambda device: only)
    assert [one.quantity for one in ceilings(1, seconds=0.01)] == ["fp32", "int8", "memory"]


def test_a_gpu_without_a_torch_that_can_use_it_is_unmeasured() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this torch can use a GPU")
    assert ceilings(1, device="cuda:0", seconds=0.01) == []


def test_without_onnx_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r'needs onnx: pip install "crossrt\[report\]"'):
        ceilings(1)


def test_each_thread_multiplies_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(3, timeout=10)

    def make(*_: Any) -> Callable[[], object]:
        calls = [0]

        def call() -> None:
            calls[0] += 1
            if calls[0] == 2:  # of the first stretch, after the warm-up; it breaks unless three threads come
                together.wait()

        return call

    calls = [make() for _ in range(3)]
    for each in calls:
        each()
    assert calls_a_second(calls, 0.5) > 0  # long enough for threads that a busy machine starts late


def test_the_array_is_read_whole() -> None:
    read: list[int] = []

    def reading(part: Any) -> None:
        read.append(part.nbytes)

    calls: Sequence[Any] = kernels.reads_by(reading)(3)
    for call in calls:
        call()
    assert sum(read) == kernels.read_bytes()
    assert max(read) - min(read) <= 4


def test_the_higher_of_two_measurements_counts() -> None:
    def one(rate: float, **rates: float) -> Ceiling:
        by = max(rates, key=rates.__getitem__)
        return Ceiling(quantity="fp32", unit="GFLOP/s", threads=2, rate=rate, by=by, rates=rates)

    (found,) = higher([one(10, a=10, b=9)], [one(12, b=12)])
    assert (found.rate, found.by, found.rates) == (12, "b", {"a": 10, "b": 12})
    (found,) = higher([one(10, a=10)], [])
    assert found.rate == 10


def test_measuring_again_never_lowers_a_ceiling() -> None:
    before = ceilings(1, seconds=0.01)
    for old, new in zip(before, again(before, seconds=0.01), strict=True):
        assert new.rate >= old.rate
        assert set(new.rates) == set(old.rates)


def test_each_precision_has_its_own_ceiling(speed_of: Make) -> None:
    found = [
        Ceiling(quantity=quantity, unit="GFLOP/s", threads=threads, rate=rate, by="x", rates={"x": rate}, device=device)
        for device, threads in (("cpu", 1), ("cpu", 2), ("cuda:0", 2))
        for quantity, rate in (("fp32", 100.0 * threads), ("bf16", 200.0 * threads), ("int8", 400.0 * threads))
    ]

    def rate(precision: str, **fields: Any) -> float | None:
        one = ceiling_of(speed_of(precision=precision, **fields), found)
        return one and one.rate

    assert [rate(name, threads=1) for name in ("fp32", "bf16", "int8", "fp16")] == [100, 200, 400, 100]
    assert rate("int8", threads=2) == 800
    assert rate("fp32", threads=3) is None
    assert rate("fp16", device="cuda:0") == 400, "tensor cores compute FP16 as fast as BF16"


def test_a_row_above_its_ceiling_by_more_than_the_noise_makes_the_run_invalid(
    speeds_of: Make, speed_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fp32,) = speeds_of().ceilings
    check_share("a row", 1.0, fp32)
    with pytest.raises(
        MeasurementError, match=r"a row is at 1\.20 of the fp32 ceiling, 200 GFLOP/s by onnxruntime: nothing"
    ):
        check_share("a row", 1.2, fp32, noise=0.1)
    check_share("a row", 1.05, fp32, noise=0.1)
    monkeypatch.setattr("crossrt.speed.ceiling.shares.again", lambda found, **_: found)
    row = speed_of(150, gflop_per_pair=1.0)
    (shared,), _ = with_shares([row], [fp32], noise=0.1)
    assert shared.of_ceiling == pytest.approx(0.75)
    assert shared.latencies[0].of_ceiling == pytest.approx(0.75)
    with pytest.raises(MeasurementError, match="this run is invalid"):
        with_shares([speed_of(250)], [fp32], noise=0.1)
    (shared,), _ = with_shares([speed_of(196)], [fp32], noise=0.1)
    assert shared.model_of_ceiling == pytest.approx(1.078), "the machine was faster while the row was measured"


def test_a_ceiling_that_was_disturbed_is_measured_once_more(
    speeds_of: Make, speed_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fp32,) = speeds_of().ceilings
    undisturbed = Ceiling(**{**_fields(fp32), "rate": 400.0, "rates": {"onnxruntime": 400.0}})
    monkeypatch.setattr("crossrt.speed.ceiling.shares.again", lambda found, **_: [undisturbed])
    (shared,), found = with_shares([speed_of(250)], [fp32], noise=0.1)
    assert shared.of_ceiling == pytest.approx(0.625)
    assert found == [undisturbed]


def test_noise_is_how_much_the_same_work_varies() -> None:
    probe = Probe(1)
    probe.run()
    assert len(probe.seconds) == 1
    probe.seconds = [1.0] * 18 + [2.0, 2.0]
    assert probe.noise == pytest.approx(np.percentile(probe.seconds, 95) - 1)
    began = time.perf_counter()
    probe.close()
    probe.close()
    assert time.perf_counter() - began < 5


def _fields(one: Ceiling) -> dict[str, Any]:
    return {name: getattr(one, name) for name in one.__dataclass_fields__}
