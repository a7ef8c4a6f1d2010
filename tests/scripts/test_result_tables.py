"""The figures in the documents are those of benchmarks/results."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tables(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("result_tables")


def test_the_documents_say_what_was_measured() -> None:
    command = [sys.executable, str(REPOSITORY / "scripts/result_tables.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_another_figure_makes_it_stale(tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = shutil.copytree(REPOSITORY / "benchmarks/results", tmp_path / "results")
    monkeypatch.setattr(tables, "RESULTS", results)
    text = (REPOSITORY / "docs/measurements.md").read_text(encoding="utf-8")
    assert tables.with_tables(text) == text
    result = json.loads((results / "cpu.json").read_text())
    result["systems"][1]["ratio_median"] += 1
    (results / "cpu.json").write_text(json.dumps(result))
    assert tables.with_tables(text) != text


def test_the_picture_has_every_system_that_ran(tables: ModuleType, tmp_path: Path) -> None:
    result = tables.load("cpu")
    tables.draw(result, tmp_path / "cpu.svg")
    ran = [row for row in result["systems"] if "failed" not in row]
    assert (tmp_path / "cpu.svg").stat().st_size > 1000 * len(ran) / 2


def test_what_failed_stays_in_the_table_with_its_reason(tables: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    avx2 = tables.load("cpu_avx2")  # of a processor without BF16
    monkeypatch.setattr(tables, "load", lambda name: avx2)
    assert "crossrt BF16** | - | failed: bf16 is not what this processor computes in" in tables.peers_table()


def test_a_picture_of_other_figures_is_stale(tables: ModuleType, tmp_path: Path) -> None:
    result = tables.load("cpu")
    tables.draw(result, tmp_path / "cpu.svg")
    drawn = (tmp_path / "cpu.svg").read_text()
    assert tables.digest(result) in drawn
    result["systems"][1]["ratio_median"] += 1
    assert tables.digest(result) not in drawn


def test_the_zoo_has_a_row_for_each_model_with_its_best_backend(
    tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def row(precision: str, median: float | None, **fields: object) -> dict[str, object]:
        spread = None if median is None else {"median": median, "p5": median - 1, "p95": median + 1, "repeats": 5}
        card = {"ndcg10": 74.3, "mrr10": 39.01, "docs_per_s_v100": 1800}
        return {"model": "some/model", "precision": precision, "pairs_per_s": spread, "published": card, **fields}

    rows = [
        row("fp32", 50),
        row("fp32", 80),
        row("bf16", None, failed="BackendError: no AVX512-BF16"),
        row("int8", 7.5),
    ]
    (tmp_path / "zoo.json").write_text(json.dumps({"rows": rows}))
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    lines = tables.zoo_table().splitlines()
    assert lines[2:] == [
        "| some/model | 80 (79 to 81) | failed: no AVX512-BF16 | 7.5 (6.5 to 8.5) | 1,800 | 74.30 | 39.01 |"
    ]


def test_quality_has_every_ranking_with_its_interval(tables: ModuleType) -> None:
    table = tables.quality_table()
    rankings = {row["label"]: row for row in tables.load("evaluate_minilm")["rankings"]}
    assert f"| minilm-l6.fp32 | {rankings['minilm-l6.fp32']['means']['nDCG@10']:.4f} |" in table
    mean, change = (rankings["minilm-l6.int8"][key]["nDCG@10"] for key in ("means", "changes"))
    interval = f"{change['low']:+.4f} to {change['high']:+.4f}"
    assert f"| minilm-l6.int8 | {mean:.4f}, {mean - change['reference']:+.4f} ({interval}) |" in table
    assert "*msmarco-dl19/bm25.run.trec, 43 queries*" in table


def test_a_table_without_its_results_is_left_as_it_is(
    tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "<!-- zoo -->\nas it was\n<!-- /zoo -->\n<!-- quality -->\nas it was\n<!-- /quality -->\n"
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    assert tables.with_tables(text) == text
