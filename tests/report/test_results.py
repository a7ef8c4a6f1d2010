"""Each kind of result is known by what it holds, and what is none is refused in words."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pydantic")

from crossrt.engine.errors import BundleError, DataFileError
from crossrt.report.results import Results

REPOSITORY = Path(__file__).resolve().parents[2]
PEERS = REPOSITORY / "benchmarks/results/cpu.json"


def test_the_kind_of_a_file_is_found_from_its_content(
    make_speeds: Callable[..., Any], make_evaluation: Callable[..., Any], write: Callable[..., Path]
) -> None:
    speeds, evaluation = make_speeds(), make_evaluation()
    found = Results.read([PEERS, write(evaluation, "a.json"), write(speeds, "b.json")])
    assert [name for name, _ in found.speeds] == ["b.json"]
    assert found.evaluations[0][1].rankings[1].means == evaluation.rankings[1].means
    assert found.speeds[0][1].rows[2].difference == speeds.rows[2].difference
    assert len(found.peers[0][1].systems) == len(json.loads(PEERS.read_text())["systems"])
    assert found.bundles == []


def test_a_folder_of_an_evaluation_counts_as_its_result(
    make_evaluation: Callable[..., Any], write: Callable[..., Path], tmp_path: Path
) -> None:
    write(make_evaluation(), "result.json")
    assert [name for name, _ in Results.read([tmp_path]).evaluations] == [tmp_path.name]


def test_a_bundle_brings_its_parity_reports(bundle: Path) -> None:
    ((_, proof),) = Results.read([bundle]).bundles
    assert [(report.precision, report.passed) for report in proof.parities] == [("fp32", True)]
    assert proof.calibration is None


def test_a_damaged_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(BundleError, match=r"manifest\.json"):
        Results.read([tmp_path])


def test_a_result_that_is_named_twice_counts_once() -> None:
    assert len(Results.read([PEERS, PEERS.parent / "../results/cpu.json"]).peers) == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("not json", "is not JSON"),
        ("[1, 2]", "crossrt evaluate"),
        ('{"kind": "something else"}', "a bundle's directory"),
        ('{"kind": "crossrt speeds", "schema": 99}', "schema 99"),
        ('{"kind": "crossrt speeds", "schema": 1, "rows": []}', "machine"),
        ('{"kind": "crossrt evaluation", "schema": 99}', "schema 99"),
        ('{"systems": [{"system": 3}], "ceiling_gflops": {}}', "machine"),
    ],
)
def test_what_is_no_result_is_refused_by_name(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "strange.json"
    path.write_text(content)
    with pytest.raises(DataFileError, match=said) as raised:
        Results.read([path])
    assert "strange.json" in str(raised.value)


def test_a_missing_file_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match=r"gone\.json cannot be read"):
        Results.read([tmp_path / "gone.json"])
    with pytest.raises(DataFileError, match=r"no manifest\.json and no result\.json"):
        Results.read([tmp_path])


def test_an_evaluation_that_lacks_a_measure_is_refused(
    make_evaluation: Callable[..., Any], write: Callable[..., Path]
) -> None:
    with pytest.raises(DataFileError, match="lacks AP"):
        Results.read([write(make_evaluation(measures=["nDCG@10", "AP"]), "a.json")])
