"""benchmarks/soak.py sees errors, scores that change and memory that grows."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads memory from /proc")


def test_every_setup_is_a_process_of_its_own_and_a_row_of_the_result(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "soak.json"
    command = [sys.executable, str(REPOSITORY / "benchmarks/soak.py"), str(bundle), "--out", str(out)]
    command += ["--requests", "30", "--setups", "onnxruntime,int8,threads,store,auto_model"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr  # so few requests say nothing of growth
    result = json.loads(out.read_text())
    rows = {row["setup"]: row for row in result["setups"]}
    assert list(rows) == ["onnxruntime", "int8", "threads", "store", "auto_model"]
    assert "holds no int8 model" in rows.pop("int8")["skipped"]
    for row in rows.values():
        assert (row["requests"], row["errors"], row["other_scores"]) == (30, [], 0)
        assert len(row["resident_mb"]) == 30
    assert {"date", "machine", "versions", "commit", "model"} <= set(result)


@pytest.mark.parametrize(
    ("score", "found"),
    [
        (lambda number, call: np.zeros(2), {"errors": [], "other_scores": 0, "growth": 0.0}),
        (lambda number, call: np.full(2, 1e-4 * call), {"errors": []}),
        (lambda number, call: 1 / 0, {"other_scores": 0}),
    ],
    ids=["as it should be", "other scores", "errors"],
)
def test_errors_and_changed_scores_are_counted(
    load_benchmark: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, score: Any, found: dict[str, Any]
) -> None:
    soak = load_benchmark("soak")
    calls = count()

    @contextmanager
    def scorer(setup: str, bundle: Path, pool: Any) -> Iterator[Any]:
        yield lambda number: score(number, next(calls))

    monkeypatch.setattr(soak, "scorer", scorer)
    monkeypatch.setattr(soak, "resident_mb", lambda: 100.0)
    row = soak.soaked("native", Path(), 600, 4)
    assert {name: row[name] for name in found} == found
    assert bool(row["errors"] or row["other_scores"]) == (len(found) < 3)


def test_memory_that_grows_after_the_first_tenth_is_told(
    load_benchmark: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    soak = load_benchmark("soak")

    @contextmanager
    def scorer(*_: Any) -> Iterator[Any]:
        yield lambda number: np.zeros(1)

    sizes = iter([50.0] * 10 + [100.0] * 45 + [150.0] * 45)
    monkeypatch.setattr(soak, "scorer", scorer)
    monkeypatch.setattr(soak, "resident_mb", lambda: next(sizes))
    assert soak.soaked("native", Path(), 1000, 4)["growth"] == 0.5
