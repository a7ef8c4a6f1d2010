"""Figures carry the machine and the commit they are of, and no other repository's."""

import os
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from crossrt.measurement import environment as facts


def test_the_machine_is_described() -> None:
    found = facts.machine()
    assert found["usable_cpus"] >= 1
    assert found["memory_gb"] >= 1
    assert found["processor"]


@pytest.mark.parametrize(
    ("described", "name", "instructions"),
    [
        (
            "model name\t: AMD EPYC 9R14\nflags\t\t: fpu avx2 avx512f avx512_vnni avx512_bf16 vaes\n",
            "AMD EPYC 9R14",
            ["avx2", "avx512f", "avx512_vnni", "avx512_bf16"],
        ),
        ("Features\t: fp asimd bf16\nCPU part\t: 0xd40\n", None, []),
        ("", None, []),
    ],
)
def test_the_processor_is_described_as_the_system_does(
    described: str, name: str | None, instructions: list[str], describe_processor: Callable[..., None]
) -> None:
    describe_processor(described)
    found = facts.machine()
    assert found["processor"] == (name or platform.processor() or platform.machine())
    assert found["instructions"] == instructions


def test_what_a_system_lacks_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has no sysconf, and slim containers no git. A long measurement ends by describing the machine."""
    monkeypatch.delattr(os, "sysconf")
    assert {"processor", "instructions", "usable_cpus"} == set(facts.machine())
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(facts, "ROOT", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert facts.commit() == "unknown"


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
