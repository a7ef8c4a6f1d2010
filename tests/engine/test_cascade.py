"""A cascade returns what the second model makes of the passages that the first one keeps."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossrt import CrossEncoder
from crossrt.engine.cascade import Cascade
from crossrt.engine.errors import InputError, OptionError
from crossrt.engine.store.passage_store import PassageStore
from crossrt.engine.store.preparation import prepare
from crossrt.engine.text.tokenizer import read_tokenizer

QUERY = "where is the river"
DOCUMENTS = [
    f"the {a} is {b} in {c}" for a in ("river", "city", "sun") for b in ("long", "red") for c in ("paris", "water")
]


@pytest.fixture(scope="module")
def models(make_bundle: Callable[..., Path]) -> Iterator[tuple[CrossEncoder, CrossEncoder]]:
    """Two models that have nothing in common: the first has two labels."""
    with (
        CrossEncoder(make_bundle(labels=2, seed=5), device="cpu") as first,
        CrossEncoder(make_bundle(seed=6), device="cpu") as second,
    ):
        yield first, second


def by_hand(first: CrossEncoder, second: CrossEncoder, keep: int, top_k: int | None) -> list[int]:
    kept = sorted(each["corpus_id"] for each in first.rank(QUERY, DOCUMENTS)[:keep])
    ranked = [each["corpus_id"] for each in second.rank(QUERY, DOCUMENTS) if each["corpus_id"] in kept]
    return ranked[:top_k]


@pytest.mark.parametrize(("keep", "top_k"), [(1, None), (4, 2), (4, 4), (12, None), (50, 3)])
def test_the_second_model_decides_among_what_the_first_keeps(
    models: tuple[CrossEncoder, CrossEncoder], keep: int, top_k: int | None
) -> None:
    found = Cascade(*models, keep=keep).rank(QUERY, DOCUMENTS, top_k=top_k, return_documents=True)
    assert [each["corpus_id"] for each in found] == by_hand(*models, keep, top_k)
    assert all(each["text"] == DOCUMENTS[each["corpus_id"]] for each in found)
    scores = {each["corpus_id"]: each["score"] for each in models[1].rank(QUERY, DOCUMENTS)}
    assert [each["score"] for each in found] == pytest.approx([scores[each["corpus_id"]] for each in found], abs=1e-5)


def prepared(model: CrossEncoder, tmp_path: Path) -> PassageStore:
    """Return a store of the documents, named p0, p1, ..."""
    (tmp_path / "p.tsv").write_text("".join(f"p{n}\t{text}\n" for n, text in enumerate(DOCUMENTS)))
    bundle = model.bundle
    options: dict[str, Any] = {"tokenizer_sha256": bundle.tokenizer_sha256, "limit": 64}
    prepare(tmp_path / "p.tsv", tmp_path / "store", read_tokenizer(bundle.tokenizer_file), **options)
    return PassageStore(tmp_path / "store")


def test_prepared_passages_go_through_both(models: tuple[CrossEncoder, CrossEncoder], tmp_path: Path) -> None:
    _, second = models
    store = prepared(second, tmp_path)
    ids = [f"p{n}" for n in range(len(DOCUMENTS))]
    found = Cascade(second, second, keep=5).rank(QUERY, passage_ids=ids, passages=store, top_k=3)
    assert [each["corpus_id"] for each in found] == by_hand(second, second, 5, 3)
    assert [each["passage_id"] for each in found] == [f"p{each['corpus_id']}" for each in found]


def test_ids_may_be_an_array_or_a_generator(models: tuple[CrossEncoder, CrossEncoder], tmp_path: Path) -> None:
    cascade = Cascade(models[1], models[1], keep=3)
    store = prepared(models[1], tmp_path)
    ids = [f"p{number}" for number in range(len(DOCUMENTS))]
    expected = cascade.rank(QUERY, passage_ids=ids, passages=store)
    for given in (np.array(ids), (each for each in ids)):
        assert cascade.rank(QUERY, passage_ids=given, passages=store) == expected  # type: ignore[arg-type]
    for options in ({"return_documents": True}, {"documents": DOCUMENTS}):
        with pytest.raises(OptionError, match="return no texts"):
            cascade.rank(QUERY, passage_ids=ids, passages=store, **options)  # type: ignore[arg-type]


def test_what_is_no_model_is_refused_at_once(
    models: tuple[CrossEncoder, CrossEncoder], make_bundle: Callable[..., Path]
) -> None:
    with pytest.raises(OptionError, match="the first model is str; open it with"):
        Cascade("x", models[1], keep=2)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="top_k, which is the cascade's keep"):
        Cascade(*models, keep=2).rank(QUERY, DOCUMENTS, first_options={"top_k": 3})
    with (
        CrossEncoder(make_bundle(labels=3, seed=7), device="cpu") as model,
        pytest.raises(OptionError, match="relevant"),
    ):
        Cascade(models[0], model, keep=2)


def test_wrong_use_is_refused(models: tuple[CrossEncoder, CrossEncoder]) -> None:
    with pytest.raises(OptionError, match="keep=0"):
        Cascade(*models, keep=0)
    with pytest.raises(OptionError, match="top_k=5, and the first model keeps 4 passages"):
        Cascade(*models, keep=4).rank(QUERY, DOCUMENTS, top_k=5)
    with pytest.raises(InputError, match="documents is one text"):
        Cascade(*models, keep=4).rank(QUERY, "a city")
    with pytest.raises(InputError, match="passage 1"):
        Cascade(*models, keep=4).rank(QUERY, ["a city", 3])  # type: ignore[list-item]
    assert Cascade(*models, keep=4).rank(QUERY, []) == []
