"""A kept result is read back whole, or refused with the place that is wrong; and what a person reads of it."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossrt.engine.errors import DataFileError
from crossrt.speed.result.rounding import rounded
from crossrt.speed.result.speeds import Curve, Speed, Speeds, Spread
from crossrt.speed.result.table import needed, table_of

Make = Callable[..., Any]


def test_a_result_survives_its_own_json(speeds_of: Make, speed_of: Make, kept: Make) -> None:
    failed = Speed(
        label="b.bf16 openvino",
        model="some/model",
        bundle_sha256="0" * 64,
        precision="bf16",
        backend="openvino",
        device="cpu",
        threads=2,
        runs_on="openvino",
        failed="no BF16 here",
        latencies=[],
    )
    points = [Spread(median=1.0, p5=0.5, p95=1.5, repeats=3)]
    curve = Curve(label="b.fp32", axis="threads", at=[1.0], pairs_per_s=points, fit="one", fitted=[1.0])
    speeds = speeds_of(speed_of(), failed, curves=[curve])
    read = Speeds.read(kept(speeds))
    assert read.to_json() == speeds.to_json()
    assert Speeds.read(kept(read)) == read
    assert read.rows[0].latencies == speeds.rows[0].latencies
    assert (read.rows[1], read.curves, read.workload, read.ceilings) == (
        failed,
        [curve],
        speeds.workload,
        speeds.ceilings,
    )


def test_figures_are_kept_with_six_digits(speeds_of: Make, speed_of: Make) -> None:
    assert json.loads(speeds_of(speed_of(1234.56789)).to_json())["rows"][0]["pairs_per_s"]["median"] == 1234.57


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda fields: fields | {"schema": 2}, r"speeds.json has schema 2, and this crossrt reads 1"),
        (lambda fields: fields | {"kind": "crossrt evaluation"}, "is not a result of crossrt bench"),
        (lambda fields: fields | {"extra": 1}, r"extra: Unexpected keyword argument; run crossrt bench again"),
        (lambda fields: fields | {"noise": "much"}, r"schema 1: noise: Input should be a valid number"),
        (lambda fields: {name: fields[name] for name in fields if name != "rows"}, "rows: Field required"),
        (lambda fields: fields | {"rows": [{**fields["rows"][0], "threads": "2"}]}, r"rows\.0\.threads: Input should"),
        (lambda fields: fields | {"rows": [{**fields["rows"][0], "speed": 1}]}, r"rows\.0\.speed: Unexpected keyword"),
        (lambda fields: [], "is not a result of crossrt bench"),
    ],
)
def test_a_wrong_field_is_named(speeds_of: Make, tmp_path: Path, change: Callable[[Any], Any], message: str) -> None:
    file = tmp_path / "speeds.json"
    file.write_text(json.dumps(change(json.loads(speeds_of().to_json()))))
    with pytest.raises(DataFileError, match=message):
        Speeds.read(file)


def test_broken_json_is_named_with_its_line(speeds_of: Make, tmp_path: Path) -> None:
    lines = speeds_of().to_json().splitlines()
    file = tmp_path / "speeds.json"
    file.write_text("\n".join([*lines[:6], "}}", *lines[6:]]))
    with pytest.raises(DataFileError, match=r"speeds\.json, line 7: the file is not JSON"):
        Speeds.read(file)
    with pytest.raises(DataFileError, match=r"nothing\.json cannot be read"):
        Speeds.read(tmp_path / "nothing.json")
    file.write_bytes(b"\xff")
    with pytest.raises(DataFileError, match="is not JSON"):
        Speeds.read(file)


def test_a_result_of_crossrt_evaluate_is_no_result_of_bench(tmp_path: Path) -> None:
    results = Path(__file__).resolve().parents[3] / "benchmarks" / "results"
    with pytest.raises(DataFileError, match=r"its kind is not 'crossrt speeds'"):
        Speeds.read(results / "evaluate_demo.json")


@pytest.mark.parametrize(
    ("value", "width", "text"),
    [
        (101.234, 0.0, "101"),
        (101.234, 0.004, "101"),
        (101.234, 0.03, "100"),
        (1234.5, 0.05, "1,200"),
        (1234.5, 0.3, "1,000"),
        (0.03456, 0.02, "0.035"),
        (98765.0, 0.9, "100,000"),
        (0.0, 0.1, "0"),
    ],
)
def test_a_figure_has_the_digits_that_its_spread_allows(value: float, width: float, text: str) -> None:
    assert rounded(value, width) == text


def test_a_noisy_machine_is_called_noisy(speeds_of: Make, speed_of: Make) -> None:
    calm, wide = speed_of(123.4), speed_of(123.4, width=0.3)
    assert "NOISY" not in table_of(speeds_of(calm))
    assert " 123 (122 to 125)" in table_of(speeds_of(calm))
    assert "THE MACHINE IS NOISY:" in table_of(speeds_of(calm, noise=0.5))
    said = table_of(speeds_of(wide))
    assert "THE MACHINE IS NOISY, with wide spreads for b.fp32 onnxruntime" in said
    assert "123" not in said
    once = dataclasses.replace(calm, pairs_per_s=Spread(median=123.4, p5=123.4, p95=123.4, repeats=1))
    assert " 100 (100 to 100)" in table_of(speeds_of(once, noise=0.3)), "a single repeat has no spread of its own"


def test_errors_stand_beside_the_speeds_and_failures_stay(speeds_of: Make, speed_of: Make) -> None:
    row = speed_of()
    difference = dataclasses.replace(row.difference, max_abs=0.0432, mean_abs=0.0112, top10_overlap=0.975)
    failed = dataclasses.replace(row, label="b.bf16 openvino", failed="no BF16 here")
    said = table_of(speeds_of(dataclasses.replace(row, difference=difference), failed)).splitlines()
    assert any(line.startswith("b.fp32 onnxruntime") and "4e-02, 1e-02   0.975" in line for line in said)
    assert "b.bf16 openvino  failed: no BF16 here" in said
    assert any("bf16 unmeasured" in line and "memory unmeasured" in line for line in said)


def test_a_ceiling_on_another_device_is_said_to_be_unmeasured(speeds_of: Make, speed_of: Make) -> None:
    assert "ceiling, cuda:0: unmeasured" in table_of(speeds_of(speed_of(device="cuda:0")))


def test_what_all_passages_in_an_hour_need_is_computed_from_the_speed(speed_of: Make) -> None:
    said = needed(speed_of(100.0), 0.0)
    assert said.startswith(
        "computed, not measured: 8.8 million passages an hour are 2,444 pairs/s, 25 times this machine"
    )
    assert said.endswith("alone it takes 24.4 hours")


def test_a_spread_is_of_percentiles() -> None:
    found = Spread.of(np.arange(101.0))
    assert (found.p5, found.median, found.p95, found.repeats) == (5, 50, 95, 101)
    assert found.width == pytest.approx(0.9)


@pytest.mark.parametrize(("repeats", "text"), [(2, "100"), (3, "123")])
def test_few_repeats_have_at_least_the_noise_of_the_machine(
    repeats: int, text: str, speeds_of: Make, speed_of: Make
) -> None:
    pairs = Spread(median=123.4, p5=123.1, p95=123.4, repeats=repeats)
    latency = dataclasses.replace(speed_of().latencies[0], p50_ms=123.4, p50_interval=[123.1, 123.4], requests=repeats)
    said = table_of(speeds_of(speed_of(pairs_per_s=pairs, latencies=[latency]), noise=0.3))
    assert f" {text} ({text} to {text}) " in said
    assert re.search(rf"^b\.fp32 onnxruntime +{text} / ", said, re.MULTILINE)


@pytest.mark.parametrize(("requests", "few"), [(99, True), (100, False)])
def test_percentiles_of_few_requests_say_so(requests: int, few: bool, speeds_of: Make, speed_of: Make) -> None:
    latency = dataclasses.replace(speed_of().latencies[0], requests=requests)
    said = table_of(speeds_of(speed_of(latencies=[latency])))
    assert (f"p99 is the slowest, of fewer than 20 p95 too: {requests} requests of 10" in said) == few
