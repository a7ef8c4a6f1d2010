"""Another library's tests run on both libraries, and every difference is documented."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("sentence_transformers")

REPOSITORY = Path(__file__).resolve().parents[2]

SUITE = """
import pytest
import torch
from sentence_transformers import CrossEncoder

NAME = "cross-encoder-testing/reranker-bert-tiny-gooaq-bce"
PAIRS = [["how many people", "a man is eating"], ["what is water", "salt in the river"]]

def test_scores_are_probabilities():
    scores = CrossEncoder(NAME).predict(PAIRS)
    assert ((scores > 0) & (scores < 1)).all()

def test_there_is_a_module():
    assert isinstance(CrossEncoder(NAME), torch.nn.Module)

def test_published_weights():
    assert CrossEncoder(NAME).predict(PAIRS[0]) == pytest.approx(0.123456, abs=1e-6)

def test_arithmetic():
    assert 1 + 1 == 2
"""


@pytest.fixture(scope="module")
def suite(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("foreign_suite")


def test_every_deviation_names_a_heading_of_the_page(suite: ModuleType) -> None:
    page = (REPOSITORY / "docs/compatibility.md").read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^a-z0-9_ -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in page.splitlines()
        if line.startswith("#")
    }
    deviations = suite.deviations_of()
    assert {deviation.anchor for deviation in deviations} <= headings
    assert set(re.findall(r"\]\(#([^)]+)\)", page)) <= headings
    patterns = [test for deviation in deviations for test in deviation.tests]
    assert len(set(patterns)) == len(patterns)


def test_only_documented_differences_are_good(suite: ModuleType) -> None:
    listed = [suite.Deviation(anchor="a", reason="r", tests=("test_x.py::test_other*", "test_x.py::test_gone"))]
    theirs = {
        f"tests/test_x.py::{name}": outcome
        for name, outcome in (
            ("test_same", "passed"),
            ("test_other[a/b]", "passed"),
            ("test_gone", "passed"),
            ("test_new", "passed"),
            ("test_gpu", "skipped"),
            ("test_weights", "failed"),
            ("test_nothing", "passed"),
        )
    }
    failing = ("test_other[a/b]", "test_new", "test_gpu", "test_weights")
    ours = {name: "failed" if name.rpartition("::")[2] in failing else "passed" for name in theirs}
    ours["tests/test_x.py::test_nothing"] = "untouched"
    result = suite.compared(theirs, ours, listed)
    short = {field: [name.rpartition("::")[2] for name in getattr(result, field)] for field in
             ("passed", "deviations", "not_run", "untouched", "failed", "stale")}  # fmt: skip
    assert short == {
        "passed": ["test_same", "test_gone"],
        "deviations": ["test_other[a/b]"],
        "not_run": ["test_gpu", "test_weights"],
        "untouched": ["test_nothing"],
        "failed": ["test_new"],
        "stale": ["test_gone"],
    }
    assert not result.good
    listed = [suite.Deviation(anchor="a", reason="r", tests=("test_x.py::test_other*", "test_x.py::test_new"))]
    assert suite.compared(theirs, ours, listed).good
    assert not suite.compared({}, {}, []).good


def test_a_suite_runs_on_crossrt_with_stand_ins_for_the_hub(suite: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "suite").mkdir()
    (tmp_path / "suite/test_small.py").write_text(SUITE)
    outcomes = suite.run(tmp_path / "suite", "crossrt", ("test_small.py",), tmp_path)
    assert outcomes == {
        "test_small.py::test_scores_are_probabilities": "passed",
        "test_small.py::test_there_is_a_module": "failed",
        "test_small.py::test_published_weights": "failed",
        "test_small.py::test_arithmetic": "untouched",
    }


def test_a_folder_without_their_tests_is_explained(
    suite: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["foreign_suite.py", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"has no tests/cross_encoder/test_model\.py: give a checkout"):
        suite.main()
