"""Attributes of a model that clients and evaluators read, and pickled or copied models."""

import copy
import io
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crossrt
from crossrt.engine import cross_encoder
from crossrt.engine.attributes import ABSENT
from crossrt.engine.errors import BackendError

QUERY = "where is the river"
DOCUMENTS = ["the river is long and green", "berlin is a city", "people live in paris", "", "salt " * 20]
PAIRS = [(QUERY, document) for document in DOCUMENTS]


def negated(logits: Any) -> Any:
    return -logits


class Renamed(crossrt.CrossEncoder):
    """A subclass whose constructor takes other arguments, as clients write them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, max_length=20)
        self.client = "ours"


def through_pickle(model: Any) -> Any:
    return pickle.loads(pickle.dumps(model))


def through_joblib(model: Any) -> Any:
    joblib = pytest.importorskip("joblib")
    file = io.BytesIO()
    joblib.dump(model, file)
    file.seek(0)
    return joblib.load(file)


@pytest.mark.parametrize("copied", [through_pickle, through_joblib, copy.deepcopy, copy.copy])
def test_a_copy_scores_as_the_model_does_and_lives_on_its_own(bundle: Path, copied: Callable[[Any], Any]) -> None:
    options = {"max_length": 24, "activation_fn": "sigmoid", "threads": 1, "backend": "onnxruntime"}
    with crossrt.CrossEncoder(bundle, **options) as model:
        expected = model.predict(PAIRS)
        model.note = "kept"
        again = copied(model)
        again.activation_fn = "identity"
        again.max_length = 12
        assert (model.activation_fn, model.max_length) == ("sigmoid", 24)
    np.testing.assert_array_equal(copied(again).predict(PAIRS), again.predict(PAIRS))
    again.activation_fn, again.max_length = "sigmoid", 24
    np.testing.assert_array_equal(again.predict(PAIRS), expected)
    assert (again.backend, again.threads, again.note) == ("onnxruntime", 1, "kept")


def test_a_function_as_activation_goes_along(bundle: Path) -> None:
    model = crossrt.CrossEncoder(bundle, activation_fn=negated)
    np.testing.assert_array_equal(through_pickle(model).predict(PAIRS), model.predict(PAIRS))


def test_a_subclass_with_a_constructor_of_its_own_can_be_copied(bundle: Path) -> None:
    again = through_pickle(Renamed(bundle))
    assert (type(again), again.client, again.max_length) == (Renamed, "ours", 20)
    assert again.rank(QUERY, DOCUMENTS)


def test_the_label_that_was_chosen_goes_along(two_label_bundle: Path) -> None:
    model = crossrt.CrossEncoder(two_label_bundle, relevant_label=0)
    assert through_pickle(model).rank(QUERY, DOCUMENTS) == model.rank(QUERY, DOCUMENTS)
    assert through_pickle(model).relevant_label == 0


def test_an_auto_model_can_be_copied(bundle: Path) -> None:
    model = crossrt.AutoModelForSequenceClassification.from_pretrained(bundle)
    ids = np.arange(1, 9).reshape(2, 4)
    for again in (through_pickle(model), copy.deepcopy(model)):
        np.testing.assert_array_equal(again(ids).logits, model(ids).logits)


def test_a_closed_model_cannot_be_copied_and_says_so(bundle: Path) -> None:
    with crossrt.CrossEncoder(bundle) as model:
        pass
    for copied in (pickle.dumps, copy.deepcopy):
        with pytest.raises(BackendError, match="this model is closed; open the bundle again"):
            copied(model)


def test_a_pickle_holds_the_bundles_absolute_path_and_no_token(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bundle.parent)
    model = crossrt.CrossEncoder(bundle.name, token="hf_secret", model_kwargs={"token": "hf_other_secret"})
    data = pickle.dumps(model)
    assert b"secret" not in data
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(pickle.loads(data).predict(PAIRS), model.predict(PAIRS))


def test_a_model_opened_from_a_checkpoint_is_copied_without_another_export(
    checkpoint: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crossrt.engine.bundle.bundle import Bundle

    monkeypatch.setattr(cross_encoder, "bundle_from_source", lambda *_, **__: Bundle.open(bundle))
    data = pickle.dumps(crossrt.CrossEncoder("some/model", revision="main"))
    monkeypatch.undo()
    assert b"some/model" not in data
    assert pickle.loads(data).bundle.path == bundle


def test_a_pickle_opens_in_another_process(bundle: Path, tmp_path: Path) -> None:
    with crossrt.CrossEncoder(bundle, activation_fn="sigmoid") as model:
        expected = model.predict(PAIRS)
        (tmp_path / "model.pickle").write_bytes(pickle.dumps(model))
    program = (
        "import pickle, sys; model = pickle.load(open(sys.argv[1], 'rb'));"
        f"print(*model.predict({PAIRS!r}).tolist()); assert 'torch' not in sys.modules"
    )
    child = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "model.pickle")],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    np.testing.assert_allclose([float(score) for score in child.stdout.split()], expected, rtol=0, atol=1e-6)


def test_a_spawned_process_takes_the_model_as_an_argument(bundle: Path) -> None:
    # The child cannot import the __main__ of pytest, so the pool gets a method of the model, which is found by its class.
    with crossrt.CrossEncoder(bundle, threads=1) as model:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            scores, child = pool.apply(model.predict, (PAIRS,)), pool.apply(os.getpid)
        assert child != os.getpid()
        np.testing.assert_array_equal(scores, model.predict(PAIRS))


# -- attributes


def test_the_tokenizer_is_the_checkpoints_as_transformers_reads_it(bundle: Path, checkpoint: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(checkpoint)
    with crossrt.CrossEncoder(bundle) as model:
        for options in ({"padding": True}, {"truncation": True, "max_length": 9}, {"add_special_tokens": False}):
            ours = model.tokenizer(PAIRS, **options)
            assert dict(ours) == dict(theirs(PAIRS, **options))
        for name in ("pad_token", "cls_token", "sep_token", "mask_token", "unk_token", "pad_token_id"):
            assert getattr(model.tokenizer, name) == getattr(theirs, name), name
        assert model.tokenizer.model_max_length == model.max_length == 64
        model.max_seq_length = 20
        assert model.tokenizer.model_max_length == model.max_length == model.get_max_seq_length() == 20


def test_the_tokenizer_truncates_at_the_checkpoints_end(
    make_checkpoint: Callable[..., Path], make_bundle: Callable[..., Path]
) -> None:
    transformers = pytest.importorskip("transformers")
    left = make_checkpoint()
    settings = json.loads((left / "tokenizer_config.json").read_text())
    (left / "tokenizer_config.json").write_text(json.dumps(settings | {"truncation_side": "left"}))
    theirs = transformers.AutoTokenizer.from_pretrained(left)
    with crossrt.CrossEncoder(make_bundle(left)) as model:
        options = {"truncation": True, "max_length": 9}
        assert dict(model.tokenizer(PAIRS, **options)) == dict(theirs(PAIRS, **options))


def test_the_model_inside_takes_the_tokenizers_tensors(bundle: Path) -> None:
    torch = pytest.importorskip("torch")
    with crossrt.CrossEncoder(bundle) as model:
        logits = model.model(**model.tokenizer(PAIRS, padding=True, truncation=True, return_tensors="pt")).logits
        assert isinstance(logits, torch.Tensor)
        np.testing.assert_allclose(logits[:, 0].numpy(), model.predict(PAIRS), rtol=0, atol=1e-5)
        assert model.model.config.num_labels == model.config.num_labels == model.num_labels == 1
    with pytest.raises(BackendError, match="closed"):
        model.model(np.ones((1, 2), dtype=int))


def test_the_default_activation_may_be_set_under_its_old_name(bundle: Path) -> None:
    with crossrt.CrossEncoder(bundle) as model:
        logits = model.predict(PAIRS)
        model.default_activation_function = "sigmoid"
        assert model.activation_fn == model.default_activation_function == "sigmoid"
        np.testing.assert_allclose(model.predict(PAIRS), 1 / (1 + np.exp(-logits)), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("inputs", "single"),
    [(("a", "b"), True), (["a", "b"], True), ([("a", "b")], False), (np.array(["a", "b"]), True),
     (np.array([["a", "b"]]), False), ([], False), (np.array([], dtype=str), False)],
)  # fmt: skip
def test_one_pair_is_told_from_several_as_in_sentence_transformers(
    model: crossrt.CrossEncoder, inputs: Any, single: bool
) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    theirs = sentence_transformers.CrossEncoder.is_singular_input
    assert model.is_singular_input(inputs) is theirs(None, inputs) is single


@pytest.mark.parametrize("name", [name for name in ABSENT if name not in ("tokenizer", "dtype")])
def test_what_a_torch_model_has_and_this_has_not_names_an_alternative(model: crossrt.CrossEncoder, name: str) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    assert hasattr(sentence_transformers.CrossEncoder, name), "sentence-transformers has it no longer"
    assert not hasattr(model, name)
    with pytest.raises(AttributeError, match=f"CrossEncoder of crossrt has no '{name}': .+"):
        getattr(model, name)


def test_an_attribute_that_no_one_has_is_named(model: crossrt.CrossEncoder) -> None:
    with pytest.raises(AttributeError, match="'CrossEncoder' object has no attribute 'nonsense'"):
        _ = model.nonsense


def test_without_transformers_the_tokenizer_says_what_to_install(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with crossrt.CrossEncoder(bundle) as model, pytest.raises(AttributeError, match="pip install transformers"):
        _ = model.tokenizer


# -- evaluators


def reranking(evaluation: Any) -> Any:
    samples = [
        {"query": QUERY, "positive": [DOCUMENTS[0]], "documents": DOCUMENTS[1:] + DOCUMENTS[:1]},
        {"query": "who live in paris", "positive": DOCUMENTS[2], "documents": DOCUMENTS},
    ]
    return evaluation.CrossEncoderRerankingEvaluator(samples, name="sample")


def negatives(evaluation: Any) -> Any:
    samples = [{"query": QUERY, "positive": DOCUMENTS[:1], "negative": DOCUMENTS[1:]}]
    return evaluation.CrossEncoderRerankingEvaluator(samples)


def classification(evaluation: Any) -> Any:
    return evaluation.CrossEncoderClassificationEvaluator(PAIRS, [1, 0, 0, 0, 1], name="binary")


def correlation(evaluation: Any) -> Any:
    return evaluation.CrossEncoderCorrelationEvaluator(PAIRS, [0.9, 0.1, 0.3, 0.0, 0.2])


def nano_beir(evaluation: Any) -> Any:
    class Local(evaluation.CrossEncoderNanoBEIREvaluator):
        def _load_dataset(self, dataset_name: str, **options: Any) -> Any:
            samples = [{"query": QUERY, "positive": DOCUMENTS[:1], "documents": DOCUMENTS}]
            return evaluation.CrossEncoderRerankingEvaluator(
                samples, name=self._get_human_readable_name(dataset_name), **options
            )

    return Local(dataset_names=["msmarco", "nq"])


def deprecated(evaluation: Any) -> Any:
    with pytest.warns(DeprecationWarning, match="evaluator has been deprecated"):
        return evaluation.CEBinaryClassificationEvaluator(PAIRS, [1, 0, 1, 0, 1])


@pytest.mark.parametrize("make", [reranking, negatives, classification, correlation, nano_beir, deprecated])
def test_an_evaluator_finds_the_figures_that_it_finds_on_sentence_transformers(
    make: Callable[[Any], Any], bundle: Path, checkpoint: Path, tmp_path: Path
) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    evaluation = pytest.importorskip("sentence_transformers.cross_encoder.evaluation")
    expected = make(evaluation)(sentence_transformers.CrossEncoder(str(checkpoint), device="cpu"))
    evaluator = make(evaluation)
    with crossrt.CrossEncoder(bundle) as model:
        found = model.evaluate(evaluator, str(tmp_path))
        assert found == pytest.approx(expected, abs=1e-4)
        assert evaluator in model.model_card_data.eval_results_dict
        assert list(tmp_path.glob("*.csv"))


def test_an_evaluator_of_several_labels_finds_the_same_figures(
    two_label_bundle: Path, two_label_checkpoint: Path
) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    evaluator = classification(pytest.importorskip("sentence_transformers.cross_encoder.evaluation"))
    expected = evaluator(sentence_transformers.CrossEncoder(str(two_label_checkpoint), device="cpu"))
    with crossrt.CrossEncoder(two_label_bundle) as model:
        assert evaluator(model) == pytest.approx(expected, abs=1e-4)


def test_model_card_data_that_was_given_gets_the_figures(bundle: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    data = sentence_transformers.CrossEncoderModelCardData()
    evaluator = reranking(pytest.importorskip("sentence_transformers.cross_encoder.evaluation"))
    with crossrt.CrossEncoder(bundle, model_card_data=data) as model:
        evaluator(model)
        assert model.model_card_data is data
    assert evaluator in data.eval_results_dict
