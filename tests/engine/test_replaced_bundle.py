"""A model whose bundle was replaced, or whose program changed its folder, since it was opened: parts of it are opened later."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from crossrt import CrossEncoder
from crossrt.engine.bundle.bundle import Bundle
from crossrt.engine.errors import ReplacedError
from crossrt.engine.runtime.cpu_scorer import CpuScorer
from crossrt.engine.store.passage_store import PassageStore
from crossrt.engine.store.preparation import WHOLE, prepare
from crossrt.engine.text.tokenizer import read_tokenizer

from .samples import QUERY, passages

PAIR = (QUERY, "berlin is a city")


@pytest.fixture
def place(rounded: Path, tmp_path: Path) -> Path:
    """Return a copy of a bundle with FP32 and INT8, which can be replaced."""
    return shutil.copytree(rounded, tmp_path / "model")


@pytest.fixture
def other(make_rounded: Callable[..., Path]) -> Path:
    """Return a bundle of the same shape with other weights."""
    return make_rounded(seed=7)


def replace(place: Path, other: Path) -> None:
    place.rename(place.with_name("old"))
    shutil.copytree(other, place)


def test_small_requests_go_on_with_the_model_that_was_opened(place: Path, other: Path) -> None:
    with CrossEncoder(place, device="cpu", threads=2) as model, CrossEncoder(other, device="cpu") as stranger:
        [expected, _] = model.predict([PAIR, PAIR])
        replace(place, other)
        assert model.predict(PAIR) == pytest.approx(expected, abs=1e-4)
        scorer = model._scorer
        assert isinstance(scorer, CpuScorer)
        with pytest.raises(ReplacedError, match="replaced by another bundle since it was opened; open the model again"):
            scorer.wait_until_wide(20)
        assert model.predict(PAIR) == pytest.approx(expected, abs=1e-4)
        assert stranger.predict(PAIR) != pytest.approx(expected, abs=1e-2)


def test_an_exact_ranking_does_not_decide_by_another_model(place: Path, other: Path) -> None:
    with CrossEncoder(place, precision="int8", device="cpu") as model:
        replace(place, other)
        with pytest.raises(ReplacedError, match="replaced by another bundle"):
            model.rank(QUERY, passages(40), top_k=3, exact=True)
        assert len(model.rank(QUERY, passages(40), top_k=3)) == 3
        shutil.rmtree(place)
        with pytest.raises(ReplacedError, match="removed or altered since it was opened"):
            model.rank(QUERY, passages(40), top_k=3, exact=True)


def test_a_length_for_one_call_needs_no_file(place: Path) -> None:
    with CrossEncoder(place, device="cpu") as model, CrossEncoder(place, device="cpu", max_length=12) as short:
        texts = [(QUERY, text) for text in passages(5)]
        shutil.move(place, place.with_name("old"))
        options = {"text": {"max_length": 12}}
        np.testing.assert_array_equal(model.predict(texts, processing_kwargs=options), short.predict(texts))
        model.max_length = 12
        np.testing.assert_array_equal(model.predict(texts), short.predict(texts))


def test_a_store_of_another_tokenizer_is_refused_though_the_bundle_has_it_now(
    place: Path, other: Path, tmp_path: Path
) -> None:
    replaced = shutil.copytree(other, tmp_path / "replaced")
    text = (replaced / "tokenizer.json").read_text().replace('"berlin"', '"birlin"')
    (replaced / "tokenizer.json").write_text(text)
    manifest = (replaced / "manifest.json").read_text()
    known = Bundle.open(other)
    new = Bundle(replaced, known.manifest).tokenizer_sha256
    (replaced / "manifest.json").write_text(manifest.replace(known.tokenizer_sha256, new))
    (tmp_path / "passages.tsv").write_text("p1\tberlin is a city\n")
    tokenizer = read_tokenizer(replaced / "tokenizer.json")
    store = prepare(str(tmp_path / "passages.tsv"), tmp_path / "store", tokenizer, tokenizer_sha256=new, limit=WHOLE)
    with CrossEncoder(place, device="cpu") as model:
        replace(place, replaced)
        with pytest.raises(ReplacedError, match="replaced by another bundle"):
            model.rank(QUERY, passage_ids=["p1"], passages=store)


def test_a_bundle_that_gained_a_report_is_the_same(place: Path) -> None:
    opened = Bundle.open(place)
    manifest = place / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"schema": ', '"tools": {}, "schema": ', 1))
    opened.check_same()
    (place / "tokenizer.json").write_text("{}")
    with pytest.raises(ReplacedError, match=r"removed or altered since it was opened: .*tokenizer\.json is damaged"):
        opened.check_same()


def test_a_model_goes_on_when_the_program_changes_its_folder(
    place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "passages.tsv").write_text("p1\tberlin is a city\n")
    bundle = Bundle.open(place)
    prepare(
        str(tmp_path / "passages.tsv"),
        tmp_path / "store",
        read_tokenizer(bundle.tokenizer_file),
        tokenizer_sha256=bundle.tokenizer_sha256,
        limit=WHOLE,
    )
    monkeypatch.chdir(place.parent)
    store = PassageStore("store")
    with CrossEncoder(place.name, precision="int8", device="cpu", threads=2) as model:
        monkeypatch.chdir("/")
        model.predict(PAIR)
        scorer = model._scorer
        assert isinstance(scorer, CpuScorer)
        scorer.wait_until_wide(20)
        assert len(model.rank(QUERY, passages(40), top_k=3, exact=True)) == 3
        [found] = model.rank(QUERY, passage_ids=["p1"], passages=store)
        assert found["passage_id"] == "p1"
        with pickle.loads(pickle.dumps(model)) as copy:
            assert copy.predict(PAIR) == pytest.approx(model.predict(PAIR), abs=1e-4)
        assert len(pickle.loads(pickle.dumps(store))) == 1


def test_a_link_may_be_set_to_the_next_bundle(place: Path, other: Path, tmp_path: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to(place)
    with CrossEncoder(link, precision="int8", device="cpu") as model, CrossEncoder(place, device="cpu") as fp32:
        link.unlink()
        link.symlink_to(other)
        found = model.rank(QUERY, passages(40), top_k=3, exact=True)
        assert [each["corpus_id"] for each in found] == [
            each["corpus_id"] for each in fp32.rank(QUERY, passages(40), top_k=3)
        ]
        with pickle.loads(pickle.dumps(model)) as copy:
            assert copy.rank(QUERY, passages(40), top_k=3, exact=True) == found
