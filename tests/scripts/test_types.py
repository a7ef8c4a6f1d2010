"""The type check sees the package, and fails for a type error."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("planted", [False, True])
def test_a_planted_type_error_fails_the_check(tmp_path: Path, planted: bool) -> None:
    checkout = tmp_path / "checkout"
    ignore = shutil.ignore_patterns(".*", "demo", "tests", "benchmarks", "__pycache__")
    shutil.copytree(REPOSITORY, checkout, ignore=ignore)
    if planted:
        with (checkout / "engine/plan.py").open("a") as file:
            file.write('\n\nplan(3, batch_size="many")\n')
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    child = subprocess.run([REPOSITORY / "scripts/types", checkout], capture_output=True, text=True, env=environment)
    assert child.returncode == (1 if planted else 0), child.stdout + child.stderr
    if planted:
        assert "engine/plan.py" in child.stdout
        assert 'Argument "batch_size" to "plan" has incompatible type "str"' in child.stdout
