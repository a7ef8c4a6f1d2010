"""An actor commits the scores of `rank`, once, and says in words what fails; without Ray."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crossrt import CrossEncoder, PassageStore, __version__
from crossrt.distributed import scorer
from crossrt.distributed.folder import BEGUN, PARTS, ROWS, Folder
from crossrt.distributed.identity import bundle_digest, store_digest
from crossrt.distributed.part import Part
from crossrt.distributed.rows import Block, Row
from crossrt.distributed.scorer import ATTEMPTS, THREADS, BlockScorer, Work
from crossrt.engine.bundle.bundle import Bundle
from crossrt.engine.store.passage_store import DESCRIPTION

DOCNOS = tuple(f"p{number}" for number in (3794, 5386, 5775))
BLOCK = Block((Row("q1", "play chess", DOCNOS), Row("q2", "a database", DOCNOS[:2])))
BROKEN = Block((Row("q1", "play chess", (DOCNOS[0], "absent", *DOCNOS[1:])),))


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for variable in THREADS:
        monkeypatch.setenv(variable, "1")  # so that it is put back
    return


@pytest.fixture
def work(demo_bundle: Path, demo_store: Path, tmp_path: Path) -> Work:
    return Work(
        bundle=str(demo_bundle),
        bundle_name="demo",
        bundle_digest=bundle_digest(Bundle.open(demo_bundle)),
        store=str(demo_store),
        store_digest=store_digest((demo_store / DESCRIPTION).read_bytes()),
        folder=str(tmp_path / "job"),
        model={"device": "cpu"},
        rank={"top_k": None, "exact": None, "windows": None, "batch_size": 32},
        threads=2,
        skip=False,
    )


def scored(work: Work, *blocks: Block) -> list[str]:
    for block in blocks:
        Folder(work.folder).write(f"{ROWS}/{block.name}", block.to_parquet())
    return list(BlockScorer(work)({"name": [block.name for block in blocks]})["error"])


def part(work: Work, block: Block) -> Part:
    return Part.from_parquet(Folder(work.folder).read(f"{PARTS}/{block.name}"))


def test_a_part_has_the_scores_of_rank_in_the_order_of_the_run(work: Work) -> None:
    assert scored(work, BLOCK) == [""]
    found = part(work, BLOCK)
    with CrossEncoder(work.bundle, device="cpu") as model:
        for row, (qid, scores) in zip(BLOCK.rows, found.scores, strict=True):
            ranked = model.rank(row.query, passage_ids=row.docnos, passages=PassageStore(work.store))
            assert qid == row.qid
            assert tuple(scores) == row.docnos
            assert scores == {each["passage_id"]: each["score"] for each in ranked}
        assert found.backend == model.backend
    assert found.bundle == f"demo@{work.bundle_digest}"
    assert found.truncation.pairs == BLOCK.pairs


def test_a_part_tells_activations_of_7_bits_from_those_of_8(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer, "parity_key", lambda backend, precision: f"{backend} in {precision.value}, narrow")
    scored(work, BLOCK)
    with CrossEncoder(work.bundle, device="cpu") as model:
        assert part(work, BLOCK).backend == f"{model.backend} in fp32, narrow"


def test_a_committed_block_is_not_scored_again(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    scored(work, BLOCK)
    before = (Path(work.folder) / PARTS / BLOCK.name).stat()
    monkeypatch.setattr(BlockScorer, "_open", lambda self: pytest.fail("it opens a model"))
    assert scored(work, BLOCK) == [""]
    assert (Path(work.folder) / PARTS / BLOCK.name).stat() == before


def test_the_libraries_threads_are_those_of_the_actor(work: Work) -> None:
    import os

    BlockScorer(work)
    assert {os.environ[variable] for variable in THREADS} == {"2"}


def test_a_passage_that_the_store_lacks_is_named(work: Work) -> None:
    [error] = scored(work, BROKEN)
    assert error.startswith("query q1, passage absent: ")
    assert "holds no passage 'absent'" in error
    assert not (Path(work.folder) / PARTS).exists()


def test_a_failing_passage_is_set_aside_and_the_others_keep_their_scores(work: Work) -> None:
    assert scored(dataclasses.replace(work, skip=True), BROKEN) == [""]
    found = part(work, BROKEN)
    [failure] = found.failures
    assert (failure.query_id, failure.doc_id) == ("q1", "absent")
    assert "holds no passage 'absent'" in failure.error
    scored(work, BLOCK)
    assert found.scores[0] == part(work, BLOCK).scores[0]
    assert found.truncation.pairs == BROKEN.pairs - 1  # what was tried to find the passage does not count


@pytest.mark.parametrize("skip", [False, True])
def test_a_block_that_ends_its_process_each_time_is_given_up(work: Work, skip: bool) -> None:
    for number in range(ATTEMPTS):
        Folder(work.folder).write(f"{BEGUN}/{BLOCK.name}/{number}", b"")
    [error] = scored(dataclasses.replace(work, skip=skip), BLOCK)
    if skip:
        assert error == ""
        assert len(part(work, BLOCK).failures) == BLOCK.pairs
        assert "the process ended 5 times" in part(work, BLOCK).failures[0].error
    else:
        assert error.startswith("queries q1 to q2: the process ended 5 times")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"store": "/nowhere"}, "cannot begin: /nowhere/store.json cannot be read"),
        ({"store_digest": "0"}, "is another store here than where the job was started"),
        ({"crossrt": "99.0"}, f"it has crossrt {__version__}, and the job was started by 99.0"),
        ({"bundle_digest": "0"}, "is another bundle here than where the job was started"),
        ({"model": {"device": "cpu", "precision": "int8"}}, "holds no int8 model"),
    ],
)
def test_a_node_that_cannot_begin_says_why(work: Work, change: dict[str, Any], message: str) -> None:
    [error] = scored(dataclasses.replace(work, **change, skip=True), BLOCK)
    assert message in error
    assert error.startswith("the node ")


def test_a_node_that_does_not_see_the_folder_says_so(work: Work) -> None:
    [error] = BlockScorer(work)({"name": [BLOCK.name]})["error"]
    assert "must be on a file system that all nodes share" in error
