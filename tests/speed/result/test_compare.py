"""`crossrt bench --compare`: what changed beyond noise, and what makes it fail."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from crossrt.__main__ import app
from crossrt.engine.errors import DataFileError, OptionError
from crossrt.speed.result.compare import compare, figures_of

Make = Callable[..., Any]


def test_the_same_result_has_not_changed(speeds_of: Make) -> None:
    found = compare(speeds_of(), speeds_of())
    assert found
    assert found.figures == 5
    assert found.changed == ()
    assert "5 of 5 figures did not change beyond noise" in str(found)


def test_a_row_that_got_slower_beyond_the_limit_fails(speeds_of: Make, speed_of: Make) -> None:
    found = compare(speeds_of(speed_of(100)), speeds_of(speed_of(90)))
    assert not found
    assert {one.before.name for one in found.regressions} == {
        "pairs/s",
        "pairs/s of the model alone",
        "ms, p50 with 10 passages",
    }
    assert "WORSE   b.fp32 onnxruntime, pairs/s: 100 -> 90 (-10%)" in str(found)
    assert compare(speeds_of(speed_of(100)), speeds_of(speed_of(90)), limit=0.2), "within a wider limit"
    faster = compare(speeds_of(speed_of(100)), speeds_of(speed_of(120)))
    assert faster
    assert "better  b.fp32 onnxruntime, pairs/s: 100 -> 120 (+20%)" in str(faster)
    little = compare(speeds_of(speed_of(57), noise=0.1), speeds_of(speed_of(64), noise=0.1))
    assert "pairs/s: 57 -> 64 (+12%)" in str(little), "two figures that read alike are no change"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"width": 0.10}, {"width": 0.10}),  # the spreads overlap
        ({"noise": 0.2}, {}),  # the machine varied by more before
        ({}, {"noise": 0.2}),  # or after
    ],
)
def test_a_difference_within_the_noise_is_none(
    speeds_of: Make, speed_of: Make, before: dict[str, Any], after: dict[str, Any]
) -> None:
    def made(pairs: float, width: float = 0.01, **fields: Any) -> Any:
        row = speed_of(pairs, width=width)
        latency = dataclasses.replace(
            row.latencies[0],
            p50_interval=[row.latencies[0].p50_ms * (1 - width), row.latencies[0].p50_ms * (1 + width)],
        )
        return speeds_of(dataclasses.replace(row, latencies=[latency]), **fields)

    found = compare(made(100, **before), made(88, **after))
    assert found
    assert not found.changed


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"memory_mb": 330.0}, "MB of memory"),
        ({"start_s": 0.5}, "s to the first score"),
        ({"latency": 1.2}, "ms, p50 with 10 passages"),
    ],
)
def test_start_up_memory_and_latency_count_too(
    speeds_of: Make, speed_of: Make, change: dict[str, float], name: str
) -> None:
    row = speed_of()
    fields: dict[str, Any] = dict(change)
    if "start_s" in fields:
        fields["start_s"] = dataclasses.replace(row.start_s, median=0.5, p5=0.49, p95=0.51)
    if "latency" in fields:
        factor = fields.pop("latency")
        old = row.latencies[0]
        fields["latencies"] = [
            dataclasses.replace(
                old, p50_ms=old.p50_ms * factor, p50_interval=[value * factor for value in old.p50_interval]
            )
        ]
    found = compare(speeds_of(row), speeds_of(dataclasses.replace(row, **fields)))
    assert [one.before.name for one in found.regressions] == [name]


def test_a_row_that_fails_now_is_a_regression(speeds_of: Make, speed_of: Make) -> None:
    failed = dataclasses.replace(speed_of(), failed="out of memory")
    found = compare(speeds_of(speed_of()), speeds_of(failed))
    assert not found
    assert "WORSE   b.fp32 onnxruntime failed: out of memory" in str(found)


def test_a_row_that_failed_before_too_is_no_regression(speeds_of: Make, speed_of: Make) -> None:
    failed = dataclasses.replace(speed_of(), label="b.bf16 openvino", failed="no BF16 here")
    found = compare(speeds_of(speed_of(), failed), speeds_of(speed_of(), failed))
    assert found
    assert found.broken == ()


def test_memory_has_its_own_noise_whatever_the_machine_varies_by(speeds_of: Make, speed_of: Make) -> None:
    def regressions(memory: float, noise: float) -> list[str]:
        row = speed_of(memory_mb=memory)
        return [
            one.before.name for one in compare(speeds_of(noise=noise), speeds_of(row, noise=noise), limit=0).regressions
        ]

    assert regressions(330.0, noise=0.5) == ["MB of memory"]
    assert regressions(305.0, noise=0.0) == [], "less than two identical processes differ by"


@pytest.mark.parametrize(
    ("machine", "workload", "says"),
    [
        ({"processor": "Another CPU"}, {}, "machines"),
        ({"instructions": ["avx2", "avx512f"]}, {}, "machines"),
        ({"usable_cpus": 4}, {}, "machines"),
        ({}, {"source": "other.tsv"}, "workloads"),
        ({}, {"sha256": "2" * 64}, "workloads"),
        ({}, {"pairs": 201}, "workloads"),
        ({"usable_cpus": 4}, {"pairs": 201}, "machines and workloads"),
        ({"memory_gb": 16}, {"p99_tokens": 191.0}, None),
    ],
)
def test_what_makes_another_machine_or_workload(
    speeds_of: Make, machine: dict[str, Any], workload: dict[str, Any], says: str | None
) -> None:
    before = speeds_of()
    after = speeds_of(machine={**before.machine, **machine}, workload=dataclasses.replace(before.workload, **workload))
    notes = str(compare(before, after))
    assert ("differ: compared are shares" in notes) == (says is not None)
    assert says is None or f"the {says} differ" in notes


def test_a_share_of_a_latency_lies_between_those_of_its_interval(speed_of: Make) -> None:
    row = speed_of(100)  # 100 ms, of which 99 to 101 are the interval, at half of the ceiling
    figures = {one.name: one for one in figures_of(row, noise=0.02, shares=True)}
    found = figures["share of ceiling, p50 with 10 passages"]
    assert found.low == pytest.approx(0.5 / 1.01)
    assert found.value == 0.5
    assert found.high == pytest.approx(0.5 / 0.99)
    assert found.more_is_better


def test_other_threads_are_said(speeds_of: Make, speed_of: Make) -> None:
    found = compare(speeds_of(speed_of()), speeds_of(dataclasses.replace(speed_of(), threads=1)))
    assert "b.fp32 onnxruntime: 2 threads before, 1 after" in found.notes


def test_rows_of_one_result_alone_are_named(speeds_of: Make, speed_of: Make) -> None:
    other = dataclasses.replace(speed_of(), label="b.int8 onnxruntime")
    assert "in one result alone: b.int8 onnxruntime (after)" in str(
        compare(speeds_of(speed_of()), speeds_of(speed_of(), other))
    )
    with pytest.raises(
        DataFileError, match=r"have no row in common: b\.fp32 onnxruntime in one, b\.int8 onnxruntime in"
    ):
        compare(speeds_of(speed_of()), speeds_of(other))


def test_other_machines_and_workloads_are_compared_by_shares_of_the_ceiling(speeds_of: Make, speed_of: Make) -> None:
    before = speeds_of(speed_of(100))
    machine = {**before.machine, "processor": "Another CPU"}
    # Twice as fast, on a machine whose ceiling is three times as high.
    row = dataclasses.replace(speed_of(200, of_ceiling=0.33, model_of_ceiling=0.37), latencies=[], memory_mb=900.0)
    found = compare(before, speeds_of(row, machine=machine))
    assert not found
    assert "the machines differ: compared are shares of each machine's own ceiling" in str(found)
    assert {one.before.name for one in found.regressions} == {
        "pairs/s, share of ceiling",
        "pairs/s of the model alone, share of ceiling",
    }
    workload = dataclasses.replace(before.workload, mean_tokens=40.0)
    assert "the workloads differ" in str(compare(before, speeds_of(speed_of(100), workload=workload)))
    without = dataclasses.replace(row, of_ceiling=None, model_of_ceiling=None)
    with pytest.raises(DataFileError, match="the machines differ, and the rows have no share of a ceiling in common"):
        compare(before, speeds_of(without, machine=machine))


def test_the_exit_status_tells_a_regression(
    speeds_of: Make, speed_of: Make, kept: Make, command: Make, tmp_path: Path
) -> None:
    before, after = kept(speeds_of(speed_of(100)), "before.json"), kept(speeds_of(speed_of(90)), "after.json")
    status, printed, _ = command("--compare", before, after)
    assert status == 1
    assert "WORSE" in printed
    assert command("--compare", before, after, "--limit", 15)[0] == 0
    assert command("--compare", before, before)[0] == 0
    status, _, errors = command("--compare", before, tmp_path / "none.json")
    assert status == 1
    assert "none.json cannot be read" in errors
    assert command("--compare", before, after, "--limit", 100)[0] == 2
    assert command("a-bundle", "--compare", before, after)[0] == 2
    status, _, errors = command("--compare", before, before, "--quick", "--out", tmp_path / "speeds.json")
    assert (status, (tmp_path / "speeds.json").exists()) == (2, False)
    assert "--out, --quick: --compare measures nothing, and takes --limit alone" in errors
    status, _, errors = command()
    assert status == 2
    assert "give bundles to measure, or --compare BEFORE AFTER" in errors


def test_no_option_of_a_measurement_is_ignored_with_two_results(tmp_path: Path) -> None:
    group: Any = typer.main.get_command(app)
    params = group.commands["bench"].params
    options = [each for each in params if each.name not in ("bundles", "compare", "limit", "help")]
    assert {"counts", "repeats", "trust_engines", "local_files_only", "run"} <= {each.name for each in options}
    for each in options:
        words = [each.opts[0], *([] if each.is_flag else [str(tmp_path) if each.name == "cache_folder" else "7"])]
        done = CliRunner().invoke(app, ["bench", "--compare", "before", "after", *words])
        assert isinstance(done.exception, OptionError), words
        assert f"{each.opts[0]}: --compare measures nothing" in str(done.exception)
