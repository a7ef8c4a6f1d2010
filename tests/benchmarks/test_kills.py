"""benchmarks/kills.py, with few kills."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent.parent


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_a_few_kills_leave_whole_files_and_what_the_next_run_clears(bundle: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "benchmarks/kills.py"), "--bundle", str(bundle), "--kills", "6"]
    command += ["--only", "prepare,rerank,evaluate", "--out", str(tmp_path / "kills.json")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "kills.json").read_text())
    assert found["kills"] == 6
    assert found["failures"] == []
    assert found["commit"]


def test_half_a_file_and_a_leftover_are_failures(load_benchmark: Any, tmp_path: Path) -> None:
    kills = load_benchmark("kills")
    target = tmp_path / "run"
    command = kills.Command(words=("rerank",), target=target, content=kills.sha256_of)
    assert kills.state_of(command, None, "new") == "absent"
    with pytest.raises(AssertionError, match="the old target is gone"):
        kills.state_of(command, "old", "new")
    target.write_text("half")
    with pytest.raises(AssertionError, match="neither the old nor the new"):
        kills.state_of(command, "old", "new")
    (tmp_path / ".run.0123456789abcdef.partial").write_text("")
    assert command.left() == [".run.0123456789abcdef.partial"]
