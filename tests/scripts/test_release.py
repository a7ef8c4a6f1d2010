"""A release sets the version and the changelog's heading, tags, and writes checksums; a dry run leaves the checkout alone."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
WHEELS = "import pathlib, sys; out = pathlib.Path(sys.argv[1]); out.mkdir(); (out / 'a.whl').write_text('wheel')\n"
"""In place of scripts/wheels.py."""


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("release")


@pytest.fixture
def checkout(script: ModuleType, tmp_path: Path) -> Path:
    """A repository with the files that a release changes."""
    root = tmp_path / "checkout"
    for name in (*script.PLACES, "CHANGELOG.md"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, root / name)
    (root / "CHANGELOG.md").write_text(
        "# Changelog\n\n## Unreleased\n\n- It scores.\n\n## 0.0.1 (2026-01-01)\n\n- It exists.\n"
    )
    (root / "scripts").mkdir()
    (root / "scripts/wheels.py").write_text(WHEELS)
    subprocess.run(["git", "init", "--quiet", "--initial-branch=main", root], check=True)
    git(root, "config", "user.name", "Tester")
    git(root, "config", "user.email", "tester@example.org")
    commit(root)
    return root


def git(root: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", root, *words], capture_output=True, text=True, check=True).stdout.strip()


def commit(root: Path) -> None:
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "Changed")


def test_a_release_is_a_commit_a_tag_and_files_with_checksums(
    script: ModuleType, checkout: Path, tmp_path: Path
) -> None:
    script.release(checkout, "7.8.9", tmp_path / "out", dry_run=False)
    for name, place in script.PLACES.items():
        assert (checkout / name).read_text().count(place.format("7.8.9")) == 1
    changelog = (checkout / "CHANGELOG.md").read_text()
    assert changelog.startswith("# Changelog\n\n## Unreleased\n\n## 7.8.9 (2")
    assert changelog.endswith(")\n\n- It scores.\n\n## 0.0.1 (2026-01-01)\n\n- It exists.\n")
    assert git(checkout, "rev-parse", "v7.8.9^{commit}") == git(checkout, "rev-parse", "main")
    assert git(checkout, "log", "-1", "--format=%s") == "Release 7.8.9"
    assert git(checkout, "status", "--porcelain") == ""
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["SHA256SUMS", "a.whl"]
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tmp_path / "out", check=True)


def test_a_dry_run_leaves_the_checkout_as_it_was(script: ModuleType, checkout: Path, tmp_path: Path) -> None:
    before = git(checkout, "rev-parse", "HEAD")
    script.release(checkout, "7.8.9", tmp_path / "out", dry_run=True)
    assert (tmp_path / "out/SHA256SUMS").exists()
    assert git(checkout, "rev-parse", "HEAD") == before
    assert git(checkout, "tag") == git(checkout, "status", "--porcelain") == ""


def test_wheels_that_are_not_built_leave_the_checkout_as_it_was(
    script: ModuleType, checkout: Path, tmp_path: Path
) -> None:
    (checkout / "scripts/wheels.py").write_text("raise SystemExit(1)\n")
    commit(checkout)
    before = git(checkout, "rev-parse", "HEAD")
    with pytest.raises(SystemExit, match="were not built"):
        script.release(checkout, "7.8.9", tmp_path / "out", dry_run=False)
    assert git(checkout, "rev-parse", "HEAD") == before
    assert git(checkout, "tag") == ""


def test_what_would_fail_later_is_refused_at_once(script: ModuleType, checkout: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit, match=r"v7\.8\.9 is no version"):
        script.release(checkout, "v7.8.9", out, dry_run=True)
    git(checkout, "tag", "v7.8.9")
    with pytest.raises(SystemExit, match=r"the tag v7\.8\.9 exists"):
        script.release(checkout, "7.8.9", out, dry_run=True)
    (checkout / "new").touch()
    with pytest.raises(SystemExit, match="not committed"):
        script.release(checkout, "7.9.0", out, dry_run=True)
    (checkout / "new").unlink()
    out.mkdir()
    (out / "old.whl").touch()
    with pytest.raises(SystemExit, match="is not empty"):
        script.release(checkout, "7.9.0", out, dry_run=True)


def test_a_changelog_with_nothing_new_is_refused(script: ModuleType, checkout: Path, tmp_path: Path) -> None:
    (checkout / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n\n## 0.0.1 (2026-01-01)\n\n- It exists.\n")
    commit(checkout)
    with pytest.raises(SystemExit, match="nothing under 'Unreleased'"):
        script.release(checkout, "7.8.9", tmp_path / "out", dry_run=True)


def test_this_checkout_has_its_version_in_every_place(script: ModuleType) -> None:
    version = script.present_version(REPOSITORY)
    for name, place in script.PLACES.items():
        assert (REPOSITORY / name).read_text().count(place.format(version)) == 1, name
