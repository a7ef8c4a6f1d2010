"""A small job: the demo model, a store of the demo passages, and some queries of the demo run."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="crossrt[ray] is not installed")

REPOSITORY = Path(__file__).resolve().parents[2]
SAMPLE = REPOSITORY / "demo/sample"
QUERIES = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """What a job reads, in a folder of its own."""

    folder: Path
    bundle: Path
    store: Path
    queries: Path
    run: Path

    @property
    def words(self) -> list[str]:
        """The arguments of `crossrt rerank`, but for the output."""
        return [
            *(str(self.bundle), "--queries", str(self.queries), "--run", str(self.run), "--store", str(self.store)),
            *("--device", "cpu"),
        ]


@pytest.fixture(scope="session")
def demo_store(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("stores") / "demo.store"
    assert run_crossrt("prepare", demo_bundle, SAMPLE / "passages.tsv", store).returncode == 0
    return store


@pytest.fixture
def files(tmp_path: Path, demo_bundle: Path, demo_store: Path) -> Files:
    lines = (SAMPLE / "bm25.run.trec").read_text(encoding="utf-8").splitlines(keepends=True)
    wanted = list(dict.fromkeys(line.split()[0] for line in lines))[:QUERIES]
    run = tmp_path / "run.trec"
    run.write_text("".join(line for line in lines if line.split()[0] in wanted))
    return Files(folder=tmp_path, bundle=demo_bundle, store=demo_store, queries=SAMPLE / "queries.tsv", run=run)


@pytest.fixture
def crossrt() -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Return a function that runs the command line in a process of its own."""
    return run_crossrt


def run_crossrt(*words: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-W", "ignore", "-m", "crossrt", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)
