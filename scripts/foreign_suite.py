"""Run sentence-transformers' own tests of CrossEncoder, once as they are and once with crossrt's class instead.

    python scripts/foreign_suite.py CHECKOUT

Small checkpoints made from a seed replace the models on the hub, so that no network is needed. A test that fails on
sentence-transformers itself, because it wants published weights, a GPU or a library, is not compared. Each of the others passes
on crossrt or is listed in foreign_suite.toml as a deviation that docs/compatibility.md explains. The exit status is 1 if a test
fails that is not listed, if a listed test passes or no longer exists, and if nothing was compared.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import tomllib

SCRIPTS = Path(__file__).resolve().parent
DEVIATIONS = SCRIPTS / "foreign_suite.toml"
FILES = (
    "tests/cross_encoder/test_model.py",
    "tests/cross_encoder/test_multi_process.py",
    "tests/cross_encoder/evaluation",
)
"""The tests of inference. The tests of training and model cards are left out, and those that need the published weights
(test_pretrained) or Optimum's classes (test_backends)."""
SUPPORT = ("tests/__init__.py", "tests/conftest.py", "tests/utils.py", "tests/cross_encoder/__init__.py",
           "tests/cross_encoder/conftest.py")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """Tests that are expected to fail. `tests` are patterns of their names, `anchor` is a heading of docs/compatibility.md."""

    anchor: str
    reason: str
    tests: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The names of tests by outcome."""

    passed: list[str] = field(default_factory=list)
    deviations: dict[str, Deviation] = field(default_factory=dict)
    not_run: list[str] = field(default_factory=list)
    untouched: list[str] = field(default_factory=list)
    """Tests that pass without opening a model, and therefore say nothing about crossrt."""
    failed: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    """Patterns of deviations that no failing test matches."""

    @property
    def good(self) -> bool:
        """Whether every difference is documented, every documented difference exists, and something was compared."""
        return bool(self.passed) and not self.failed and not self.stale


def deviations_of(file: Path = DEVIATIONS) -> list[Deviation]:
    """Read the list of deviations."""
    rows = tomllib.loads(file.read_text(encoding="utf-8"))["deviation"]
    return [Deviation(anchor=row["anchor"], reason=row["reason"], tests=tuple(row["tests"])) for row in rows]


def compared(theirs: Mapping[str, str], ours: Mapping[str, str], listed: list[Deviation]) -> Comparison:
    """Compare the outcomes of two runs. The outcome of each test is `passed`, `failed`, `skipped` or `untouched`."""
    result = Comparison()
    used = set()
    for name, outcome in theirs.items():
        if outcome != "passed":
            result.not_run.append(name)
            continue
        if ours.get(name) == "untouched":
            result.untouched.append(name)
            continue
        if ours.get(name) == "passed":
            result.passed.append(name)
            continue
        short = Path(name.partition("::")[0]).name + name[name.index("::") :]
        found = next(
            ((deviation, test) for deviation in listed for test in deviation.tests if fnmatchcase(short, test)), None
        )
        if found is None:
            result.failed.append(name)
        else:
            used.add(found[1])
            result.deviations[name] = found[0]
    result.stale.extend(test for deviation in listed for test in deviation.tests if test not in used)
    return result


def run(suite: Path, library: str, files: tuple[str, ...], work: Path) -> dict[str, str]:
    """Run the tests with one of the two libraries and return the outcome of each."""
    outcomes = work / f"{library}.json"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(SCRIPTS), os.environ.get("PYTHONPATH")))),
        "HF_HUB_OFFLINE": "1",
        "FOREIGN_SUITE": json.dumps({"library": library, "outcomes": str(outcomes), "work": str(work)}),
    }
    # Use no ini file of theirs or of a folder above, run no test twice because of a marker, and ignore their warnings.
    options = ["-q", "--no-header", "-p", "no:cacheprovider", "-p", "foreign_suite_plugin", "-c", os.devnull,
               "--rootdir", str(suite), "--tb=line", "-W", "ignore"]  # fmt: skip
    log = work / f"{library}.log"
    with log.open("w") as output:
        subprocess.run(
            [sys.executable, "-m", "pytest", *options, *files],
            cwd=suite, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
    if not outcomes.is_file():
        raise SystemExit(f"the tests did not run with {library}:\n{log.read_text()[-4000:]}")
    found: dict[str, str] = json.loads(outcomes.read_text())
    return found


def printed(result: Comparison) -> None:
    """Print the table."""
    print(f"| passed on crossrt | {len(result.passed)} |")
    print(f"| documented deviation | {len(result.deviations)} |")
    print(f"| passed without a model of either library | {len(result.untouched)} |")
    print(f"| not run: fails or is skipped on sentence-transformers here | {len(result.not_run)} |")
    print(f"| failed | {len(result.failed)} |")
    for name, deviation in result.deviations.items():
        print(f"deviation  {name}\n           docs/compatibility.md#{deviation.anchor}: {deviation.reason}")
    for name in result.not_run:
        print(f"not run    {name}")
    for name in result.failed:
        print(f"FAILED     {name}")
    for test in result.stale:
        print(f"STALE      {test} is listed in {DEVIATIONS.name}, but no such test fails")


def main() -> int:
    """Run the tests with both libraries and compare the outcomes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="a checkout of sentence-transformers' repository")
    checkout = parser.parse_args().checkout
    if not (checkout / FILES[0]).is_file():
        raise SystemExit(
            f"{checkout} has no {FILES[0]}: give a checkout of sentence-transformers, version 6.0 or later"
        )
    with tempfile.TemporaryDirectory(prefix="foreign-suite-") as folder:
        work = Path(folder)
        suite = work / "suite"
        for name in (
            *SUPPORT,
            *FILES,
        ):  # copy only the tests, so that the installed library is imported and not the checkout's
            if (checkout / name).exists():
                (suite / name).parent.mkdir(parents=True, exist_ok=True)
                copy = shutil.copytree if (checkout / name).is_dir() else shutil.copyfile
                copy(checkout / name, suite / name)
        result = compared(
            run(suite, "sentence_transformers", FILES, work), run(suite, "crossrt", FILES, work), deviations_of()
        )
    printed(result)
    return 0 if result.good else 1


if __name__ == "__main__":
    sys.exit(main())
