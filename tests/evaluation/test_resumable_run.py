"""A run that is written query by query is the same however often its writer dies."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossrt.engine.errors import DataFileError
from crossrt.evaluation.resumable_run import ResumableRun

WORK = {"model": "a" * 64, "depth": None}
LISTS = [(str(query), {f"p{row}": float(row % (query + 1)) for row in range(query + 1)}) for query in range(6)]


def grown(target: Path, *, until: int | None = None, queries: int = len(LISTS), **options: object) -> ResumableRun:
    run = ResumableRun(target, **{"fingerprint": WORK, "queries": queries, **options})  # type: ignore[arg-type]
    for query, scores in LISTS[run.done : until]:
        run.append(query, scores, tag="t")
    if run.done == queries:
        run.finish()
    return run


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)
@given(stops=st.lists(st.tuples(st.integers(0, len(LISTS)), st.text(max_size=5)), max_size=4))
def test_interruptions_leave_no_trace(tmp_path_factory: pytest.TempPathFactory, stops: list[tuple[int, str]]) -> None:
    folder = tmp_path_factory.mktemp("runs")
    whole, target = grown(folder / "whole").target, folder / "target"
    for until, torn in sorted(stops):
        run = ResumableRun(target, fingerprint=WORK, queries=len(LISTS))
        for query, scores in LISTS[run.done : until]:
            run.append(query, scores, tag="t")
        with (folder / ".target.partial").open("a", newline="") as file:
            file.write(torn)  # written, and not in the checkpoint yet
        assert not target.exists()
    assert grown(target).finished
    assert target.read_bytes() == whole.read_bytes()
    before = target.stat().st_mtime_ns
    assert grown(target).finished
    assert target.stat().st_mtime_ns == before, "a finished run is not written again"


def test_a_try_out_goes_on_to_the_whole(tmp_path: Path) -> None:
    assert grown(tmp_path / "t", queries=2, until=2).finished
    short = (tmp_path / "t").read_bytes()
    again = ResumableRun(tmp_path / "t", fingerprint=WORK, queries=len(LISTS))
    assert (again.done, again.finished) == (2, False)
    assert grown(tmp_path / "t").finished
    assert (tmp_path / "t").read_bytes().startswith(short)
    with pytest.raises(DataFileError, match="holds 6 queries, and 2 are asked for"):
        grown(tmp_path / "t", queries=2)


@pytest.mark.parametrize("until", [3, None])
def test_other_work_is_refused_and_says_what_is_other(tmp_path: Path, until: int | None) -> None:
    grown(tmp_path / "t", until=until)
    with pytest.raises(DataFileError, match=r"t\.checkpoint is of another evaluation: depth was None and is 5\. Give"):
        grown(tmp_path / "t", fingerprint={**WORK, "depth": 5})
    with pytest.raises(
        DataFileError, match=r"model was aaaaaaaa\.\.\. and is bbbbbbbb\.\.\.; threads was None and is 2"
    ):
        grown(tmp_path / "t", fingerprint={**WORK, "model": "b" * 64, "threads": 2})
    assert grown(tmp_path / "t", fingerprint={**WORK, "depth": 5}, restart=True).finished


def test_files_that_were_tampered_with_are_refused(tmp_path: Path) -> None:
    target = grown(tmp_path / "t").target
    whole = target.read_bytes()
    target.write_bytes(whole[:-1])
    with pytest.raises(DataFileError, match="t was altered after it was written"):
        grown(target)
    (tmp_path / ".t.checkpoint").write_text("{}")
    with pytest.raises(DataFileError, match=r"checkpoint cannot be used"):
        grown(target)
    (tmp_path / ".t.checkpoint").unlink()
    with pytest.raises(DataFileError, match="t is already there, and no checkpoint says what of"):
        grown(target)
    assert grown(target, restart=True).target.read_bytes() == whole
    target.unlink()
    grown(target, until=3, restart=True)
    (tmp_path / ".t.partial").write_text("")
    with pytest.raises(DataFileError, match=r"\.t\.partial is gone or was cut"):
        grown(target)
