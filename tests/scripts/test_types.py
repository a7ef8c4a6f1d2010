"""The type check sees every file of the package, with mypy's strict rules, and fails for a type error."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib

pytest.importorskip("mypy")

REPOSITORY = Path(__file__).resolve().parents[2]
WRONG = 'def double(count: int) -> int:\n    return 2 * count\n\n\ndouble("many")\n\n\ndef untyped(value):\n    return value\n'


def test_a_type_error_is_found_wherever_it_is(tmp_path: Path) -> None:
    """In a checkout of the same files with other text: `scripts/check` runs it on the real one, which takes a minute."""
    settings = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text(settings, encoding="utf-8")
    folders = [name.replace(".", "/") for name in tomllib.loads(settings)["tool"]["setuptools"]["packages"]]
    files = [
        file for folder in folders for file in (REPOSITORY / folder.partition("crossrt")[2].strip("/")).glob("*.py")
    ]
    names = {str(file.relative_to(REPOSITORY)) for file in files} - {"setup.py"}
    assert {"__main__.py", "compatibility.py", "engine/batching/plan.py"} < names
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(WRONG, encoding="utf-8")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    child = subprocess.run([REPOSITORY / "scripts/types", tmp_path], capture_output=True, text=True, env=environment)
    assert child.returncode == 1, child.stdout + child.stderr
    errors = [line for line in child.stdout.splitlines() if "error:" in line]
    for error in ('Argument 1 to "double" has incompatible type "str"', "Function is missing a type annotation"):
        assert {line.partition(":")[0] for line in errors if error in line} == {f"crossrt/{name}" for name in names}
