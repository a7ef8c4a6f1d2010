"""The type check sees the package, and fails for a type error."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_check_finds_a_planted_type_error_and_no_other(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    ignore = shutil.ignore_patterns(".*", "demo", "tests", "benchmarks", "__pycache__")
    shutil.copytree(REPOSITORY, checkout, ignore=ignore)
    with (checkout / "engine/batching/plan.py").open("a") as file:
        file.write('\n\nplan_batches(3, batch_size="many")\n')
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    child = subprocess.run([REPOSITORY / "scripts/types", checkout], capture_output=True, text=True, env=environment)
    assert child.returncode == 1, child.stdout + child.stderr
    found = [line for line in child.stdout.splitlines() if "error:" in line]
    assert {line.partition(":")[0] for line in found} == {"crossrt/engine/batching/plan.py"}, child.stdout
    assert any('Argument "batch_size" to "plan_batches" has incompatible type "str"' in line for line in found)
