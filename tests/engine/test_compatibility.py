"""The same calls on the real sentence-transformers and on crossrt give the same answers."""

import inspect
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
sentence_transformers = pytest.importorskip("sentence_transformers")

import crossrt
from crossrt.engine import compatibility

ATOL = 1e-4
QUERY = "where is the river"
DOCUMENTS = ["the river is long and green", "berlin is a city", "the river is long and green", "", "salt " * 80]
PAIRS = [(QUERY, document) for document in DOCUMENTS]


@pytest.fixture(scope="module")
def both(checkpoint: Path, bundle: Path) -> tuple[Any, Any]:
    return sentence_transformers.CrossEncoder(str(checkpoint), device="cpu"), crossrt.CrossEncoder(bundle)


@pytest.fixture(scope="module")
def both_two_labels(two_label_checkpoint: Path, two_label_bundle: Path) -> tuple[Any, Any]:
    theirs = sentence_transformers.CrossEncoder(str(two_label_checkpoint), device="cpu")
    return theirs, crossrt.CrossEncoder(two_label_bundle)


def assert_same(theirs: Any, ours: Any) -> None:
    """Assert equal types, shapes and values, floats within the FP32 tolerance."""
    assert type(ours) is type(theirs)
    if isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs)
        for their_item, our_item in zip(theirs, ours, strict=True):
            assert_same(their_item, our_item)
    elif isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for key in theirs:
            assert_same(theirs[key], ours[key])
    elif isinstance(theirs, torch.Tensor):
        assert (ours.dtype, ours.shape, ours.device.type) == (theirs.dtype, theirs.shape, theirs.device.type)
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=0, atol=ATOL)
    elif isinstance(theirs, (np.ndarray, np.generic)):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=ATOL)
    elif isinstance(theirs, float):
        assert ours == pytest.approx(theirs, abs=ATOL)
    else:
        assert ours == theirs


CALLS: dict[str, Callable[[Any], Any]] = {
    "a list of tuples": lambda m: m.predict(PAIRS),
    "a list of lists": lambda m: m.predict([list(pair) for pair in PAIRS]),
    "a tuple of tuples": lambda m: m.predict(tuple(PAIRS)),
    "an array": lambda m: m.predict(np.array(PAIRS)),
    "an object array": lambda m: m.predict(np.array(PAIRS, dtype=object)),
    "a single tuple": lambda m: m.predict(PAIRS[0]),
    "a single list": lambda m: m.predict(list(PAIRS[0])),
    "a single array": lambda m: m.predict(np.array(PAIRS[0])),
    "a list of one": lambda m: m.predict(PAIRS[:1]),
    "batches of two": lambda m: m.predict(PAIRS, batch_size=2),
    "a tensor": lambda m: m.predict(PAIRS, convert_to_tensor=True),
    "a single tensor": lambda m: m.predict(PAIRS[0], convert_to_tensor=True),
    "a list of tensors": lambda m: m.predict(PAIRS, convert_to_numpy=False),
    "no pairs as a tensor": lambda m: m.predict([], convert_to_tensor=True),
    "no pairs as a list": lambda m: m.predict([], convert_to_numpy=False),
    "an activation": lambda m: m.predict(PAIRS, activation_fn=torch.nn.Sigmoid()),
    "the default after it": lambda m: m.predict(PAIRS),
    "softmax": lambda m: m.predict(PAIRS, apply_softmax=True),
    "a bar": lambda m: m.predict(PAIRS, show_progress_bar=False),
    "the old name of inputs": lambda m: m.predict(sentences=PAIRS),
    "the old name of the activation": lambda m: m.predict(PAIRS, activation_fct=torch.nn.Sigmoid()),
    "workers": lambda m: m.predict(PAIRS, num_workers=0),
    "unicode": lambda m: m.predict([("Café ñ 中国", "😀 מה\x00 \u200b"), ("[SEP]", "[CLS] [SEP]")]),
    "a string that is longer than the limit": lambda m: m.predict([("river " * 90, "city " * 90)]),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_predict_answers_as_sentence_transformers_does(both: tuple[Any, Any], call: Callable[[Any], Any]) -> None:
    theirs, ours = both
    assert_same(call(theirs), call(ours))


@pytest.mark.parametrize(
    "call", [c for name, c in CALLS.items() if "old" not in name], ids=[n for n in CALLS if "old" not in n]
)
def test_predict_with_two_labels_answers_as_sentence_transformers_does(
    both_two_labels: tuple[Any, Any], call: Callable[[Any], Any]
) -> None:
    theirs, ours = both_two_labels
    assert_same(call(theirs), call(ours))


RANKINGS: dict[str, Callable[[Any], Any]] = {
    "all": lambda m: m.rank(QUERY, DOCUMENTS),
    "with texts": lambda m: m.rank(QUERY, DOCUMENTS, return_documents=True),
    "top two": lambda m: m.rank(QUERY, DOCUMENTS, top_k=2),
    "more than there are": lambda m: m.rank(QUERY, DOCUMENTS, top_k=50),
    "an activation": lambda m: m.rank(QUERY, DOCUMENTS, activation_fn=torch.nn.Sigmoid()),
    "one": lambda m: m.rank(QUERY, DOCUMENTS[:1]),
    "none": lambda m: m.rank(QUERY, []),
    "options without effect": lambda m: m.rank(
        QUERY, DOCUMENTS, convert_to_tensor=True, num_workers=0, apply_softmax=True
    ),
}


@pytest.mark.parametrize("call", RANKINGS.values(), ids=RANKINGS.keys())
def test_rank_answers_as_sentence_transformers_does(both: tuple[Any, Any], call: Callable[[Any], Any]) -> None:
    theirs, ours = both
    assert_same(call(theirs), call(ours))


def test_empty_input_is_float32_where_sentence_transformers_gives_float64(both: tuple[Any, Any]) -> None:
    theirs, ours = both
    assert theirs.predict([]).shape == ours.predict([]).shape == (0,)
    assert (theirs.predict([]).dtype, ours.predict([]).dtype) == (np.float64, np.float32)


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"batch_size": -3}])
def test_what_sentence_transformers_refuses_with_a_value_error_so_do_we(
    both: tuple[Any, Any], wrong: dict[str, Any]
) -> None:
    for model in both:
        with pytest.raises(ValueError, match="batch_size"):
            model.predict(PAIRS, **wrong)


def test_options_of_opening_give_the_same_scores(checkpoint: Path, bundle: Path) -> None:
    for options in (
        {"max_length": 16},
        {"activation_fn": torch.nn.Sigmoid()},
        {"num_labels": 1},
        {"tokenizer_args": {"model_max_length": 24}},
        {"config_args": {"num_labels": 1}},
    ):
        theirs = sentence_transformers.CrossEncoder(str(checkpoint), device="cpu", **options)
        with crossrt.CrossEncoder(bundle, device="cpu", **options) as ours:
            assert_same(theirs.predict(PAIRS), ours.predict(PAIRS))


@pytest.mark.parametrize("method", ["__init__", "predict", "rank"])
def test_every_keyword_is_taken_mapped_or_refused_with_an_alternative(method: str) -> None:
    theirs = inspect.signature(getattr(sentence_transformers.CrossEncoder, method)).parameters
    ours = inspect.signature(getattr(crossrt.CrossEncoder, method)).parameters
    mapped = {"model_kwargs", "processor_kwargs", "config_kwargs", "self", "kwargs"}
    known = (
        set(ours) | mapped | set(compatibility.RENAMED) | set(compatibility.ALTERNATIVES) | compatibility.WITHOUT_EFFECT
    )
    assert set(theirs) <= known, set(theirs) - known
    source = inspect.getsource(sentence_transformers.util.decorators)
    deprecated = {
        "model_name",
        "automodel_args",
        "tokenizer_args",
        "tokenizer_kwargs",
        "config_args",
        "cache_dir",
        "default_activation_function",
        "classifier_dropout",
        "sentences",
        "activation_fct",
        "num_workers",
    }
    assert all(f'"{name}"' in source or f"{name}=" in source for name in deprecated), (
        "sentence-transformers changed its old names"
    )
    assert deprecated <= known


@pytest.mark.parametrize("method", ["predict", "rank"])
def test_parameters_come_in_the_order_of_sentence_transformers(method: str) -> None:
    theirs, ours = (
        [
            name
            for name, parameter in inspect.signature(getattr(library.CrossEncoder, method)).parameters.items()
            if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        ]
        for library in (sentence_transformers, crossrt)
    )
    assert ours == theirs


def test_every_keyword_is_in_the_table_of_the_documentation() -> None:
    table = (Path(__file__).resolve().parents[2] / "docs/compatibility.md").read_text()
    for method in ("__init__", "predict", "rank"):
        for name in inspect.signature(getattr(sentence_transformers.CrossEncoder, method)).parameters:
            if name not in ("self", "kwargs"):
                assert f"`{name}`" in table, name
    for name in (*compatibility.RENAMED, *compatibility.ALTERNATIVES, *compatibility.WITHOUT_EFFECT):
        assert f"`{name}`" in table, name


MODEL_CARD_1 = """
from sentence_transformers import CrossEncoder

model = CrossEncoder('cross-encoder/ms-marco-MiniLM-L6-v2')
scores = model.predict([
    ("How many people live in Berlin?", "Berlin had a population of 3,520,031 registered inhabitants in an area of 891.82 square kilometers."),
    ("How many people live in Berlin?", "Berlin is well known for its museums."),
])
print(scores)
# [ 8.607138 -4.320078]
"""

MODEL_CARD_2 = """
from transformers import AutoTokenizer, AutoModelForSequenceClassification
import torch

model = AutoModelForSequenceClassification.from_pretrained('cross-encoder/ms-marco-MiniLM-L6-v2')
tokenizer = AutoTokenizer.from_pretrained('cross-encoder/ms-marco-MiniLM-L6-v2')

features = tokenizer(['How many people live in Berlin?', 'How many people live in Berlin?'], ['Berlin has a population of 3,520,031 registered inhabitants in an area of 891.82 square kilometers.', 'New York City is famous for the Metropolitan Museum of Art.'],  padding=True, truncation=True, return_tensors="pt")

model.eval()
with torch.no_grad():
    scores = model(**features).logits
    print(scores)
"""


@pytest.mark.parametrize(
    ("snippet", "imports"),
    [
        (MODEL_CARD_1, "from crossrt import CrossEncoder"),
        (
            MODEL_CARD_2,
            "from transformers import AutoTokenizer\nfrom crossrt import AutoModelForSequenceClassification",
        ),
    ],
    ids=["CrossEncoder", "AutoModelForSequenceClassification"],
)
def test_the_model_cards_snippets_run_with_the_import_changed_alone(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snippet: str, imports: str
) -> None:
    """The name in the snippet is a local directory here: no checkpoint is fetched."""
    shutil.copytree(checkpoint, tmp_path / "cross-encoder/ms-marco-MiniLM-L6-v2")
    monkeypatch.chdir(tmp_path)
    changed = re.sub(r"^from (sentence_transformers|transformers) import .*$", imports, snippet, count=1, flags=re.M)
    assert changed != snippet
    assert changed.splitlines()[-3:] == snippet.splitlines()[-3:]
    results = []
    for text in (snippet, changed):
        names: dict[str, Any] = {}
        exec(compile(text, "snippet", "exec"), names)
        results.append(names["scores"])
    assert_same(*results)
    assert "crossrt.engine.auto_model" in sys.modules or "Auto" not in snippet


def test_auto_model_takes_arrays_and_gives_arrays(bundle: Path, checkpoint: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    model = crossrt.AutoModelForSequenceClassification.from_pretrained(bundle).eval()
    features = tokenizer([QUERY, QUERY], DOCUMENTS[:2], padding=True, return_tensors="np")
    logits = model(**features).logits
    assert isinstance(logits, np.ndarray)
    assert logits.shape == (2, 1)
    expected = crossrt.CrossEncoder(bundle).predict(PAIRS[:2], activation_fn="identity")
    np.testing.assert_allclose(logits[:, 0], expected, atol=ATOL)
    with pytest.raises(crossrt.CrossrtError, match="must be of one size"):
        model(features["input_ids"], features["attention_mask"][:1])
    with pytest.raises(crossrt.CrossrtError, match="expected integers"):
        model(features["input_ids"].astype(float))
    with pytest.raises(crossrt.CrossrtError, match=r"1 x 70 tokens does not fit this model"):
        model(np.ones((1, 70), dtype=np.int64))
    ragged = tokenizer([QUERY, QUERY], DOCUMENTS[:2])
    for unusable, message in [
        (ragged["input_ids"], r"input_ids has rows of different lengths; pad them: tokenizer\(\.\.\., padding=True"),
        (features, r"input_ids is a BatchEncoding: pass what it holds by name, model\(\*\*inputs\)"),
        (torch.ones((1, 4), dtype=torch.bfloat16), "input_ids cannot be read as integers .*BFloat16"),
    ]:
        with pytest.raises(crossrt.CrossrtError, match=message):
            model(unusable)
