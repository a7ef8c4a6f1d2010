"""benchmarks/ray_rerank.py: rounds and campaigns add up; and a campaign with few kills."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SAMPLE = REPOSITORY / "demo/sample"


@pytest.fixture
def benchmark(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("ray_rerank")


def test_rounds_of_the_same_job_add_up(benchmark: ModuleType) -> None:
    first: dict[str, Any] = {"pairs": 100, "threads_of_an_actor": None, "same_bytes": True}
    first["seconds"] = first["processor_seconds"] = {"one process": [1.0], "ray": [2.0]}
    second = {**first, "seconds": {"one process": [2.0], "ray": [2.0]}}
    both = benchmark.shares(benchmark.with_rounds(benchmark.shares(first), second))
    assert both["seconds"] == {"one process": [1.0, 2.0], "ray": [2.0, 2.0]}
    assert both["pairs_per_s"] == {"one process": 66.7, "ray": 50.0}
    assert both["share"] == 0.75
    assert benchmark.with_rounds(both, {**second, "pairs": 7})["seconds"] == second["seconds"]


def test_campaigns_add_up(benchmark: ModuleType) -> None:
    one = {"runs": 1, "blocks": 5, "begun": 6, "failures": [], "kills": {"actor": 1, "raylet": 0, "driver": 2}}
    total = benchmark.added(benchmark.added({}, one), {**one, "failures": ["x"]})
    assert total["kills"] == {"actor": 2, "raylet": 0, "driver": 4}
    assert (total["runs"], total["begun"], total["failures"]) == (2, 12, ["x"])


def test_a_few_kills_change_nothing(demo_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray.data", reason="crossrt[ray] is not installed")
    command = [sys.executable, "-W", "ignore", str(REPOSITORY / "benchmarks/ray_rerank.py"), "kills", str(demo_bundle)]
    command += ["--queries", str(SAMPLE / "queries.tsv"), "--passages", str(SAMPLE / "passages.tsv")]
    command += ["--pairs", "20000", "--kills", "3", "--out", str(tmp_path / "ray.json")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = json.loads((tmp_path / "ray.json").read_text())["kills"]
    assert found["kills"] == {"actor": 1, "raylet": 1, "driver": 1}
    assert found["failures"] == []
