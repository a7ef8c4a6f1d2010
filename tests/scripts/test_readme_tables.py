"""The README's figures are those of benchmarks/results."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tables(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("readme_tables")


def test_the_readme_says_what_was_measured() -> None:
    command = [sys.executable, str(REPOSITORY / "scripts/readme_tables.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_another_figure_makes_it_stale(tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = shutil.copytree(REPOSITORY / "benchmarks/results", tmp_path / "results")
    monkeypatch.setattr(tables, "RESULTS", results)
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert tables.with_tables(text) == text
    result = json.loads((results / "cpu.json").read_text())
    result["systems"][1]["ratio_median"] += 1
    (results / "cpu.json").write_text(json.dumps(result))
    assert tables.with_tables(text) != text


def test_the_picture_has_every_system_that_ran(tables: ModuleType, tmp_path: Path) -> None:
    result = tables.load("cpu")
    tables.draw(result, tmp_path / "cpu.svg")
    ran = [row for row in result["systems"] if "failed" not in row]
    assert (tmp_path / "cpu.svg").stat().st_size > 1000 * len(ran) / 2


def test_what_failed_stays_in_the_table_with_its_reason(tables: ModuleType) -> None:
    assert "crossrt BF16** | - | failed: bf16 is not what this processor computes in" in tables.peers_table()
