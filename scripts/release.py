"""Makes a release: `scripts/release.py [--dry-run] VERSION [OUT]`.

The work is done in a clone of the checkout. The commit and the tag are fetched into the checkout only after everything was built
and checked. A release that fails therefore leaves no trace, and the files are built from exactly what the tag holds.
"""

import argparse
import datetime
import hashlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLACES = {
    "pyproject.toml": 'version = "{}"\n',
    "__init__.py": '__version__ = "{}"\n',
    "deploy/kubernetes.yaml": "image: crossrt:{}\n",
    "docs/getting-started.md": "on native {} (",
}
"""The files that contain the version, and the text around it."""
UNRELEASED = "## Unreleased\n"


def release(root: Path, version: str, out: Path, *, dry_run: bool) -> None:
    """Release the head commit of the checkout `root` as `version`, and write the files to `out`. Raises SystemExit on failure."""
    check_can_release(root, version, out)
    with tempfile.TemporaryDirectory() as work:
        clone = Path(work) / "crossrt"
        git(root, "clone", "--quiet", "--shared", root, clone)
        for name in ("user.name", "user.email"):
            git(clone, "config", name, git(root, "config", name))
        set_version(clone, version)
        (clone / "CHANGELOG.md").write_text(
            with_heading((clone / "CHANGELOG.md").read_text(), f"{version} ({datetime.date.today()})")
        )
        git(clone, "commit", "--quiet", "--all", "--message", f"Release {version}")
        git(clone, "tag", "--annotate", "--message", f"crossrt {version}", f"v{version}")
        built = subprocess.run([sys.executable, "scripts/wheels.py", out], cwd=clone)
        if built.returncode:
            sys.exit("the wheels were not built: see above. This checkout is as it was.")
        write_checksums(out)
        if not dry_run:
            git(root, "fetch", "--quiet", clone, f"refs/tags/v{version}:refs/tags/v{version}")
            git(root, "merge", "--quiet", "--ff-only", f"v{version}")
    made = (
        "A dry run: no commit and no tag were made"
        if dry_run
        else f"This checkout has the commit and the tag v{version}"
    )
    print(f"{made}. The files are in {out}. docs/releasing.md says how to publish them.")


def check_can_release(root: Path, version: str, out: Path) -> None:
    """Raise SystemExit, before anything is built, for what would fail later."""
    if not re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", version):
        sys.exit(f"{version} is no version: write it as 1.2.3 or 1.2.3rc1")
    if git(root, "status", "--porcelain"):
        sys.exit("the checkout has changes that are not committed: commit them or put them away")
    if git(root, "tag", "--list", f"v{version}"):
        sys.exit(f"the tag v{version} exists: choose another version, or delete the tag if it was not published")
    if out.exists() and any(out.iterdir()):
        sys.exit(f"{out} is not empty: name another folder")


def set_version(root: Path, version: str) -> None:
    """Write the version in all `PLACES`. Raises SystemExit if a file does not have the present version exactly once."""
    old = present_version(root)
    for name, place in PLACES.items():
        text = (root / name).read_text()
        if text.count(place.format(old)) != 1:
            sys.exit(f"{name} does not have {place.format(old)!r} once: set PLACES in scripts/release.py right")
        (root / name).write_text(text.replace(place.format(old), place.format(version)))


def present_version(root: Path) -> str:
    """Return the version in pyproject.toml."""
    found = re.search(r'^version = "(.+)"$', (root / "pyproject.toml").read_text(), re.MULTILINE)
    if not found:
        sys.exit("pyproject.toml has no version")
    return found[1]


def with_heading(changelog: str, heading: str) -> str:
    """Return the changelog with the unreleased entries under `heading`, below an empty section for later entries.

    Raises SystemExit if there are no unreleased entries.
    """
    before, found, after = changelog.partition(UNRELEASED)
    if not found or not after.partition("\n## ")[0].strip():
        sys.exit("CHANGELOG.md has nothing under 'Unreleased': say there what users will notice")
    return f"{before}{UNRELEASED}\n## {heading}\n{after}"


def write_checksums(out: Path) -> None:
    """Write SHA256SUMS for `sha256sum --check`."""
    files = sorted(file for file in out.iterdir() if file.name != "SHA256SUMS")
    lines = (f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files)
    (out / "SHA256SUMS").write_text("".join(lines))


def git(root: Path, *words: str | Path) -> str:
    """Run git in a checkout and return its output. Raises SystemExit with its error message."""
    done = subprocess.run(["git", "-C", root, *words], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"git {' '.join(map(str, words))} failed: {done.stderr.strip()}")
    return done.stdout.strip()


def main() -> None:
    """Release the version that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--dry-run", action="store_true", help="build all, but make no commit and no tag in this checkout"
    )
    parser.add_argument("version")
    parser.add_argument("out", type=Path, nargs="?")
    arguments = parser.parse_args()
    out = (arguments.out or ROOT / "dist" / arguments.version).absolute()
    release(ROOT, arguments.version, out, dry_run=arguments.dry_run)


if __name__ == "__main__":
    main()
