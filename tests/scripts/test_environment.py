"""scripts/environment, with a pip that installs nothing."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PIP = """#!/bin/sh
case "$*" in
    *--editable*) sleep 0.5; {outcome} ;;
    *--requirement*) exit 0 ;;
    *) exec {python} "$@" ;;
esac
"""


def installed(folder: Path, outcome: str) -> subprocess.CompletedProcess[str]:
    """Source the script. Its environment's Python installs crossrt by `outcome`, after the other packages."""
    python = folder / "venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(PIP.format(outcome=outcome, python=shlex.quote(sys.executable)))
    python.chmod(0o755)
    commands = f'set -euo pipefail; . scripts/environment export; [ -e "{folder}/done" ] && echo ready'
    environment = {**os.environ, "VENV": str(folder / "venv"), "PYTHON": sys.executable}
    return subprocess.run(["bash", "-c", commands], cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.skipif(sys.platform == "win32", reason="a script for bash")
def test_crossrt_is_there_when_the_script_ends_though_it_compiles_longest(tmp_path: Path) -> None:
    run = installed(tmp_path, f"touch {tmp_path}/done")
    assert (run.returncode, run.stdout) == (0, "ready\n")


@pytest.mark.skipif(sys.platform == "win32", reason="a script for bash")
def test_an_installation_that_fails_ends_the_script_and_is_tried_again(tmp_path: Path) -> None:
    run = installed(tmp_path, "exit 1")
    assert run.returncode != 0
    assert not [*(tmp_path / "venv").glob(".crossrt-*")]
