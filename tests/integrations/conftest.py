"""The demo model and its examples, for the tests of the adapters. scripts/integrations runs these tests beside each framework."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from crossrt import CrossEncoder

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs/integrations.md"
QUERY = "play chess against the computer"


@pytest.fixture(scope="session")
def demo_model(demo_bundle: Path) -> CrossEncoder:
    return CrossEncoder(demo_bundle)


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Return twelve passages about games and other programs."""
    lines = (REPOSITORY / "demo/sample/passages.tsv").read_text(encoding="utf-8").splitlines()
    about = [line.partition("\t")[2] for line in lines]
    return [text for text in about if "chess" in text.lower()][:6] + about[:6]


@pytest.fixture
def run_example(demo_bundle: Path, tmp_path: Path) -> Callable[[str], None]:
    """Return a function that runs the example under a heading of docs/integrations.md and compares what it prints."""

    def run(heading: str) -> None:
        section = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
        code, printed = re.findall(r"```(?:python|text)\n(.*?)```", section, flags=re.DOTALL)[:2]
        (tmp_path / "demo").symlink_to(REPOSITORY / "demo")
        (tmp_path / "demo-bundle").symlink_to(demo_bundle)
        child = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert child.returncode == 0, child.stderr
        assert child.stdout == printed, child.stdout

    return run
