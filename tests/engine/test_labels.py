"""Which label means relevant, and how `rank` scores models with several labels."""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossrt import CrossEncoder
from crossrt.engine.bundle.bundle import Bundle
from crossrt.engine.bundle.manifest import MANIFEST
from crossrt.engine.errors import BundleError, OptionError
from crossrt.engine.labels import label_number, margin, relevant_by_name

QUERY = "where is the river"
DOCUMENTS = ["berlin is a city", "the river", "people live in paris " * 4, ""]
PAIRS = [(QUERY, document) for document in DOCUMENTS]
NLI = ["contradiction", "entailment", "neutral"]


def softmaxed(logits: Any) -> Any:
    powers = np.exp(np.asarray(logits, dtype=np.float64))
    return powers / powers.sum(axis=1, keepdims=True)


def in_order(ranked: list[dict[str, Any]]) -> list[float]:
    """The scores of the documents in the order they were given."""
    return [entry["score"] for entry in sorted(ranked, key=lambda entry: entry["corpus_id"])]


@pytest.fixture(scope="module")
def three(make_bundle: Callable[..., Path]) -> Path:
    return make_bundle(labels=3, activation=None, seed=2, id2label=dict(enumerate(NLI)), label2id={})


def with_manifest(bundle: Path, copy: Path, **changes: Any) -> Path:
    shutil.copytree(bundle, copy)
    fields = json.loads((copy / MANIFEST).read_text()) | changes
    (copy / MANIFEST).write_text(json.dumps({name: value for name, value in fields.items() if value is not ...}))
    return copy


@pytest.mark.parametrize(
    ("names", "relevant"),
    [
        ((), 1),
        (("LABEL_0", "LABEL_1"), 1),
        (("relevant", "not_relevant"), 0),
        (("not_relevant", "relevant"), 1),
        (("Relevant", "irrelevant"), 0),
        (("entailment", "not_entailment"), 0),
        (("not-entailment", "entailment"), 1),
        (("contradiction", "entailment"), 1),
        (("YES", "NO"), 0),
        (("no", "yes"), 1),
        (("True", "False"), 0),
        (("positive", "negative"), 0),
        (("NEGATIVE", "POSITIVE"), 1),
        (("duplicate", "not duplicate"), 0),
        (("relevant", "rest"), 0),
        (("rest", "non_relevant"), 0),
        (("rest", "relevant"), 1),
        (("relevant", "positive"), 1),
        (("0", "1"), 1),
        (("notable", "nonsense"), 1),
    ],
)
def test_of_two_labels_the_names_decide_and_else_the_second_is_relevant(names: tuple[str, ...], relevant: int) -> None:
    assert relevant_by_name(names, 2) == relevant


def test_one_label_is_relevant_and_of_three_none_is_unasked() -> None:
    assert relevant_by_name(("not_relevant",), 1) == 0
    assert relevant_by_name(tuple(NLI), 3) is None


@pytest.mark.parametrize("choice", [1, np.int64(1), "entailment", "Entailment", "1"])
def test_a_label_goes_by_its_index_or_its_name(choice: Any) -> None:
    assert label_number(choice, NLI, 3) == 1


@pytest.mark.parametrize("choice", [3, -1, True, 1.0, "relevant", "3", None])
def test_a_label_that_is_none_is_refused_with_those_there_are(choice: Any) -> None:
    with pytest.raises(OptionError, match=r"0 \(contradiction\), 1 \(entailment\), 2 \(neutral\)"):
        label_number(choice, NLI, 3)


def test_labels_without_names_are_listed_by_their_numbers() -> None:
    with pytest.raises(OptionError, match=r"labels: 0, 1, 2$"):
        label_number(3, (), 3)


def test_a_name_of_two_labels_chooses_none() -> None:
    with pytest.raises(OptionError, match="is none of the model's labels"):
        label_number("same", ("same", "same"), 2)


@pytest.mark.parametrize("labels", [2, 3, 5])
def test_the_margins_sigmoid_is_the_softmax_and_it_does_not_saturate(labels: int) -> None:
    logits = np.random.default_rng(0).normal(scale=3, size=(20, labels)).astype(np.float32)
    for label in range(labels):
        probability = 1 / (1 + np.exp(-margin(logits, label).astype(np.float64)))
        np.testing.assert_allclose(probability, softmaxed(logits)[:, label], rtol=1e-5)
    logits[:, 0] += np.arange(20) * 40
    assert len(set(margin(logits, 0).tolist())) == 20
    assert margin(logits[:0], 0).shape == (0,)


def test_three_labels_are_ranked_once_one_is_chosen(three: Path) -> None:
    with CrossEncoder(three) as model:
        assert model.relevant_label is None
        assert model.label_names == tuple(NLI)
        logits = model.predict(PAIRS)
        assert logits.shape == (4, 3)
        with pytest.raises(OptionError, match=r"3 labels.*relevant_label=.*1 \(entailment\)"):
            model.rank(QUERY, DOCUMENTS)
    for choice, label in (("entailment", 1), (0, 0), ("2", 2)):
        with CrossEncoder(three, relevant_label=choice) as model:
            assert model.relevant_label == label
            np.testing.assert_array_equal(model.predict(PAIRS), logits)
            expected = softmaxed(logits)[:, label]
            ranked = model.rank(QUERY, DOCUMENTS)
            assert [entry["corpus_id"] for entry in ranked] == np.argsort(-expected, kind="stable").tolist()
            np.testing.assert_allclose(
                in_order(model.rank(QUERY, DOCUMENTS, activation_fn="sigmoid")), expected, atol=1e-5
            )
    with pytest.raises(OptionError, match="relevant_label='relevant' is none of the model's labels"):
        CrossEncoder(three, relevant_label="relevant")


@pytest.mark.parametrize("label", [0, 1])
def test_a_softmax_is_taken_over_the_labels_of_each_document(two_label_bundle: Path, label: int) -> None:
    torch = pytest.importorskip("torch")
    ways: list[dict[str, Any]] = [
        {"activation_fn": "softmax"},
        {"activation_fn": torch.nn.Softmax(dim=1)},
        {"activation_fn": torch.nn.Softmax(dim=-1)},
        {"activation_fn": functools.partial(torch.softmax, dim=1)},
        {"activation_fn": functools.partial(torch.nn.functional.softmax, dim=-1)},
        {"apply_softmax": True},
    ]
    with CrossEncoder(two_label_bundle, relevant_label=label) as model:
        expected = softmaxed(model.predict(PAIRS))[:, label]
        for way in ways:
            np.testing.assert_allclose(in_order(model.rank(QUERY, DOCUMENTS, **way)), expected, atol=1e-5)
            [alone] = model.rank(QUERY, DOCUMENTS[:1], **way)
            np.testing.assert_allclose(alone["score"], expected[0], atol=1e-5)
        logarithms = model.rank(QUERY, DOCUMENTS, activation_fn=torch.nn.LogSoftmax(dim=1))
        np.testing.assert_allclose(in_order(logarithms), np.log(expected), atol=1e-4)


def test_the_margin_is_of_the_chosen_label(two_label_bundle: Path) -> None:
    with CrossEncoder(two_label_bundle) as usual, CrossEncoder(two_label_bundle, relevant_label=0) as other:
        assert (usual.relevant_label, other.relevant_label) == (1, 0)
        np.testing.assert_array_equal(
            in_order(usual.rank(QUERY, DOCUMENTS)), -np.array(in_order(other.rank(QUERY, DOCUMENTS)))
        )


def test_a_bundle_of_schema_1_ranks_by_the_label_it_was_made_with(two_label_bundle: Path, tmp_path: Path) -> None:
    new = {"label_names": ..., "prompt": ..., "prompts": ...}
    old = with_manifest(two_label_bundle, tmp_path / "old", schema=1, relevant_label=0, **new)
    manifest = Bundle.open(old).manifest
    assert (manifest.relevant_label, manifest.label_names, manifest.prompt, manifest.prompts) == (0, (), None, {})
    assert json.loads(manifest.to_json())["schema"] == 3
    with CrossEncoder(old) as model:
        assert model.relevant_label == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"relevant_label": None}, "relevant_label is null, and a model with 2 labels has one"),
        ({"relevant_label": 2}, "relevant_label is 2, expected 0 to 1"),
        ({"label_names": ["a"]}, "2 labels have the names"),
        ({"label_names": ["a", 1]}, r"label_names\[1\] is 1, expected a text"),
        ({"prompt": 3}, "prompt is 3, expected a text"),
        ({"prompts": {"q": None}}, r"prompts.* is null, expected a text"),
    ],
)
def test_a_manifest_with_other_labels_than_the_model_is_refused(
    two_label_bundle: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        Bundle.open(with_manifest(two_label_bundle, tmp_path / "copy", **changes))
