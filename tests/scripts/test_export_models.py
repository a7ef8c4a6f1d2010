"""The batch form of export goes on past a failure and says what came of each."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("torch")

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/export_models.py"


def test_it_goes_on_past_a_failure_and_ends_with_a_table(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    command = [
        sys.executable,
        str(SCRIPT),
        str(tmp_path / "empty"),
        str(checkpoint),
        "--out",
        str(tmp_path / "bundles"),
    ]
    child = subprocess.run(command, capture_output=True, text=True)
    assert child.returncode == 1
    rows = child.stdout
    assert "exported, parity passed" in rows
    assert "config.json" in rows
    assert len([path for path in (tmp_path / "bundles").iterdir() if path.is_dir()]) == 1


def test_all_fifteen_published_checkpoints_are_the_default(load_script: Callable[[str], ModuleType]) -> None:
    published = load_script("export_models").PUBLISHED
    assert len(set(published)) == 15
    assert list(published) == [model.name for model in load_script("model_zoo").ZOO]
