"""The claims of sentence-transformers' own tests of CrossEncoder's inference, rewritten and run on both libraries.

Releases of sentence-transformers contain no tests; scripts/foreign_suite runs the originals from a checkout of their repository.
"""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
sentence_transformers = pytest.importorskip("sentence_transformers")

import crossrt

QUERY = "where is the river"
DOCUMENTS = ["berlin is a city", "the river is long and green", "people live in paris", "salt in water"]
PAIRS = [[QUERY, document] for document in DOCUMENTS]

Opened = Callable[..., Any]


@pytest.fixture(scope="module")
def sources(
    make_checkpoint: Callable[..., Path],
    make_bundle: Callable[..., Path],
    checkpoint: Path,
    bundle: Path,
    two_label_checkpoint: Path,
    two_label_bundle: Path,
) -> dict[str, dict[str, Path]]:
    """Return the directories that each library opens, by the kind of model: `sigmoid` is what a silent config means."""
    silent = make_checkpoint(activation=None)
    return {
        "sentence-transformers": {"sigmoid": silent, "identity": checkpoint, "labels": two_label_checkpoint},
        "crossrt": {"sigmoid": make_bundle(silent), "identity": bundle, "labels": two_label_bundle},
    }


@pytest.fixture(params=["sentence-transformers", "crossrt"])
def opened(request: pytest.FixtureRequest, sources: dict[str, dict[str, Path]]) -> Opened:
    """Return a function that opens a kind of model with one of the libraries."""
    library = sentence_transformers if request.param == "sentence-transformers" else crossrt

    def open_model(kind: str = "sigmoid", **options: Any) -> Any:
        return library.CrossEncoder(str(sources[request.param][kind]), device="cpu", **options)

    return open_model


def test_ranks_hold_an_index_and_a_float_best_first(opened: Opened) -> None:
    ranks = opened().rank(QUERY, DOCUMENTS)
    assert sorted(rank["corpus_id"] for rank in ranks) == [0, 1, 2, 3]
    assert [type(rank["score"]) for rank in ranks] == [float] * 4
    assert [rank["score"] for rank in ranks] == sorted((rank["score"] for rank in ranks), reverse=True)
    assert json.loads(json.dumps(ranks)) == ranks
    assert not any("text" in rank for rank in ranks)


def test_ranks_hold_the_texts_where_asked(opened: Opened) -> None:
    for rank in opened().rank(QUERY, DOCUMENTS, return_documents=True):
        assert rank["text"] == DOCUMENTS[rank["corpus_id"]]


@pytest.mark.parametrize("option", ["convert_to_numpy", "convert_to_tensor", "apply_softmax"])
def test_rank_ignores_how_predict_returns_its_scores(opened: Opened, option: str) -> None:
    assert type(opened().rank(QUERY, DOCUMENTS, **{option: True})[0]["score"]) is float


def test_softmax_makes_the_labels_of_a_pair_sum_to_one(opened: Opened) -> None:
    model = opened("labels")
    sums = {softmax: model.predict(PAIRS, apply_softmax=softmax).sum(axis=1) for softmax in (True, False)}
    np.testing.assert_allclose(sums[True], 1, atol=1e-6)
    assert not np.isclose(sums[False], 1).any()


@pytest.mark.parametrize("kind", ["sigmoid", "labels"])
def test_one_pair_has_an_axis_less_than_a_list_of_one(opened: Opened, kind: str) -> None:
    model = opened(kind)
    many, one = model.predict(PAIRS[:1]), model.predict(PAIRS[0])
    assert isinstance(many, np.ndarray)
    assert many.shape == ((1,) if model.num_labels == 1 else (1, 2))
    assert isinstance(one, np.float32 if model.num_labels == 1 else np.ndarray)
    np.testing.assert_allclose(one, many[0], atol=1e-6)


def test_arrays_of_texts_are_pairs_as_lists_are(opened: Opened) -> None:
    model = opened()
    expected = model.predict(PAIRS)
    np.testing.assert_allclose(model.predict(np.array(PAIRS)), expected, atol=1e-6)
    assert isinstance(model.predict(np.array(PAIRS[0])), np.float32)
    assert model.predict(np.array([], dtype=str)).shape == (0,)


def test_batches_of_one_give_the_same_scores(opened: Opened) -> None:
    model = opened()
    np.testing.assert_allclose(model.predict(PAIRS, batch_size=1), model.predict(PAIRS), atol=1e-5)


@pytest.mark.parametrize("pairs", [[], PAIRS], ids=["no pairs", "pairs"])
@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"convert_to_tensor": True, "convert_to_numpy": True}, torch.Tensor),
        ({"convert_to_tensor": True, "convert_to_numpy": False}, torch.Tensor),
        ({"convert_to_tensor": False, "convert_to_numpy": True}, np.ndarray),
        ({"convert_to_tensor": False, "convert_to_numpy": False}, list),
    ],
)
def test_the_options_decide_what_is_returned(opened: Opened, pairs: Any, options: dict[str, Any], kind: type) -> None:
    scores = opened().predict(pairs, **options)
    assert type(scores) is kind
    assert len(scores) == len(pairs)
    if pairs:
        assert scores[0].dtype == (np.float32 if kind is np.ndarray else torch.float32)


def test_scores_of_a_16_bit_model_are_float32_and_close(opened: Opened) -> None:
    expected = opened().predict(PAIRS, convert_to_tensor=True)
    scores = opened(automodel_args={"torch_dtype": torch.bfloat16}).predict(PAIRS, convert_to_tensor=True)
    assert scores.dtype == expected.dtype == torch.float32
    assert torch.allclose(scores, expected, atol=0.1)


def test_the_longest_length_may_be_set_and_is_the_tokenizers_too(opened: Opened) -> None:
    model = opened()
    assert model.max_seq_length == model.tokenizer.model_max_length == 64
    whole = model.predict([["river " * 40, "city " * 40]])
    model.max_seq_length = 16
    assert model.max_seq_length == model.tokenizer.model_max_length == 16
    assert not np.isclose(model.predict([["river " * 40, "city " * 40]]), whole, atol=1e-4)


def test_one_label_is_a_sigmoid_and_several_are_left_as_they_are_unless_the_checkpoint_says_otherwise(
    opened: Opened,
) -> None:
    logits = opened(activation_fn=torch.nn.Identity()).predict(PAIRS)
    np.testing.assert_allclose(opened().predict(PAIRS), 1 / (1 + np.exp(-logits)), atol=1e-5)
    np.testing.assert_allclose(opened("identity").predict(PAIRS), logits, atol=1e-5)
    several = opened("labels")
    np.testing.assert_allclose(
        several.predict(PAIRS), several.predict(PAIRS, activation_fn=torch.nn.Identity()), atol=1e-6
    )


def test_an_activation_given_to_a_call_holds_for_it_alone(opened: Opened) -> None:
    model = opened()
    before = model.predict(PAIRS)
    assert not np.allclose(model.predict(PAIRS, activation_fn=torch.nn.Identity()), before)
    np.testing.assert_allclose(model.predict(PAIRS), before, atol=1e-6)


def test_an_activation_given_under_both_names_is_todays(opened: Opened) -> None:
    scores = opened().predict(PAIRS, activation_fct=torch.nn.Identity(), activation_fn=torch.nn.Sigmoid())
    assert ((scores > 0) & (scores < 1)).all()


def test_a_call_may_truncate_shorter(opened: Opened) -> None:
    model = opened()
    shorter = model.predict(PAIRS, processing_kwargs={"text": {"max_length": 5, "truncation": True}})
    assert not np.isclose(shorter, model.predict(PAIRS), atol=1e-4).all()


def test_a_copy_is_changed_without_the_model(opened: Opened) -> None:
    model = opened()
    before = model.predict(PAIRS)
    changed = copy.deepcopy(model)
    changed.activation_fn = torch.nn.Identity()
    changed.max_seq_length = 8
    np.testing.assert_allclose(model.predict(PAIRS), before, atol=1e-6)


def test_an_unknown_backend_is_an_error(opened: Opened) -> None:
    with pytest.raises(ValueError, match="backend"):
        opened(backend="no such backend")


@pytest.mark.parametrize(
    "sample",
    [
        {"query": QUERY, "positive": [DOCUMENTS[1]], "negative": [DOCUMENTS[0], DOCUMENTS[2]]},
        {"query": QUERY, "positive": [DOCUMENTS[1]], "documents": DOCUMENTS},
        {"query": QUERY, "positive": ["light"], "documents": DOCUMENTS},
        {"query": QUERY, "positive": DOCUMENTS[1], "negative": [DOCUMENTS[0]]},
    ],
    ids=["negatives", "documents", "no relevant document", "one text as positive"],
)
def test_the_reranking_evaluator_gives_figures_between_0_and_1(opened: Opened, sample: dict[str, Any]) -> None:
    evaluation = pytest.importorskip("sentence_transformers.cross_encoder.evaluation")
    figures = evaluation.CrossEncoderRerankingEvaluator([sample], name="sample", write_csv=False)(opened())
    assert {"sample_map", "sample_mrr@10", "sample_ndcg@10"} <= set(figures)
    assert all(0 <= value <= 1 for value in figures.values())
