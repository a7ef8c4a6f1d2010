"""Every script says how it is used, and takes no option for a name. Both come before anything is installed or written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="scripts for bash")

ROOT = Path(__file__).parents[2]
SCRIPTS = [
    file.name
    for file in sorted((ROOT / "scripts").iterdir())
    if file.is_file() and os.access(file, os.X_OK) and file.read_bytes().startswith(b"#!/usr/bin/env bash")
]
HAVE_OPTIONS = {"check", "conformance", "export_models", "oldest", "release", "result_tables", "test"}
"""Their first argument may be an option, of pytest or of a program in Python."""


def run(script: str, argument: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script with one argument, where an attempt to make an environment or to go on would fail."""
    environment = {**os.environ, "VENV": str(folder / "venv"), "PYTHON": "false"}
    command = ["bash", str(ROOT / "scripts" / script), argument]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=20)
    assert list(folder.iterdir()) == []
    return done


def test_the_scripts_are_found() -> None:
    assert {"quickstart", "test", "docs", *HAVE_OPTIONS} < set(SCRIPTS)


def test_programs_can_be_run_by_their_names() -> None:
    programs = [
        file
        for folder in ("benchmarks", "scripts")
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and file.read_bytes().startswith(b"#!")
    ]
    assert {"distill_demo.py", "turns.py", "check"} < {file.name for file in programs}
    assert [file.name for file in programs if not os.access(file, os.X_OK)] == []


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_shows_how_a_script_is_used(script: str, option: str, tmp_path: Path) -> None:
    done = run(script, option, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"\n  scripts/{script}" in done.stdout
    assert "#" not in done.stdout[0]
    assert "set -" not in done.stdout


@pytest.mark.parametrize("script", sorted(set(SCRIPTS) - HAVE_OPTIONS))
def test_an_option_is_not_taken_for_a_name(script: str, tmp_path: Path) -> None:
    done = run(script, "--hepl", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"unknown option --hepl; scripts/{script} --help shows the usage\n"
