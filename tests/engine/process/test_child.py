"""Child processes import installed modules, and none from the working directory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from crossrt import CrossEncoder
from crossrt.engine.process.child import crossrt_command, python_command


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with modules that write a marker when they are imported."""
    marker = "import pathlib; pathlib.Path(__file__).with_name('imported').write_text('')\nraise SystemExit(7)\n"
    folder = tmp_path / "trap"
    (folder / "copy").mkdir(parents=True)
    for name in ("copy/__init__.py", "torch.py", "numpy.py", "crossrt.py", "platformdirs.py"):
        (folder / name).write_text(marker)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    return folder


def test_an_export_imports_nothing_from_the_working_directory(trap: Path, checkpoint: Path, tmp_path: Path) -> None:
    assert subprocess.run([sys.executable, "-c", "import copy"], check=False).returncode == 7, "the trap works"
    for marker in trap.rglob("imported"):
        marker.unlink()
    with CrossEncoder(checkpoint, cache_folder=tmp_path / "cache", device="cpu") as model:
        assert model.predict(("river", "the river")).shape == ()
    assert subprocess.run(crossrt_command("--version"), capture_output=True, check=True).stdout.startswith(b"crossrt ")
    assert not list(trap.rglob("imported"))


def test_a_child_takes_its_words_and_the_users_python_path(trap: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/own_module.py").write_text("said = 'mine'\n")
    command = python_command("import sys, own_module; print(own_module.said, *sys.argv[1:])", "a b", "--c")
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "mine")}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "mine a b --c\n"
