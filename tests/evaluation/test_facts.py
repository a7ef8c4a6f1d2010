"""Figures carry the machine and the commit they are of, and no other repository's."""

import subprocess
from pathlib import Path

import pytest

from crossrt.evaluation import facts


def test_the_machine_is_described() -> None:
    found = facts.machine()
    assert found["usable_cpus"] >= 1
    assert found["memory_gb"] >= 1
    assert found["processor"]


def test_versions_are_of_what_is_installed() -> None:
    found = facts.versions("ir_measures", "no-such-package")
    assert {"python", "crossrt", "ir_measures"} <= set(found)
    assert "no-such-package" not in found


def test_an_installed_crossrt_names_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    around = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    subprocess.run([*around, "init", "--quiet"], check=True)
    subprocess.run([*around, "commit", "--quiet", "--allow-empty", "-m", "another project"], check=True)
    monkeypatch.setattr(facts, "ROOT", tmp_path)
    assert len(facts.commit()) == 12
    (tmp_path / "site-packages").mkdir()
    monkeypatch.setattr(facts, "ROOT", tmp_path / "site-packages")
    assert facts.commit() == "unknown"
