"""The steps of `predict`, each public: `encode`, `submit` with `Pending.wait`, and `run`."""

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossrt import AutoModelForSequenceClassification, CrossEncoder, TextLimits, Windows
from crossrt.engine.batching.batch import Batch
from crossrt.engine.errors import BackendError, InputError, OptionError, ShapeError
from tests.engine.samples import batch_of

ATOL = 2e-5  # FP32 noise of another order of summation, as in test_cross_encoder.py
Pairs = list[tuple[str, str]]


def test_encoded_and_submitted_pairs_have_the_logits_of_predict_in_their_order(
    model: CrossEncoder, pairs: Pairs
) -> None:
    expected = model.logits(pairs)
    pending = model.submit(model.encode(pairs))
    logits = pending.wait()
    assert (logits.shape, logits.dtype) == ((len(pairs), 1), np.float32)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=ATOL)
    assert pending.wait() is logits
    np.testing.assert_allclose(model.submit(model.encode(pairs[::-1])).wait()[::-1], expected, rtol=0, atol=ATOL)


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        (
            "ids",
            lambda ids: np.append(ids[:-1], [102]),
            "ids of encoded pairs is int64, and a contiguous array of int32",
        ),
        ("ids", lambda ids: np.repeat(ids, 2)[::2], r"convert it with np\.ascontiguousarray\(ids, dtype=np\.int32\)"),
        ("type_ids", lambda types: types + np.int16(0), "type_ids of encoded pairs is int16"),
        ("offsets", lambda offsets: offsets.astype(np.int32), "offsets of encoded pairs is int32"),
        ("offsets", lambda offsets: offsets.tolist(), "offsets of encoded pairs is list"),
    ],
)
def test_arrays_of_another_type_are_refused(
    model: CrossEncoder, pairs: Pairs, name: str, changed: Callable[[Any], Any], message: str
) -> None:
    encoded = model.encode(pairs)
    with pytest.raises(InputError, match=message):
        model.submit(dataclasses.replace(encoded, **{name: changed(getattr(encoded, name))}))


def test_requests_may_be_waited_for_in_any_order(model: CrossEncoder, pairs: Pairs) -> None:
    expected = model.logits(pairs)
    pending = [model.submit(model.encode(pairs[start:]), batch_size=2) for start in range(len(pairs))]
    for start in reversed(range(len(pairs))):
        np.testing.assert_allclose(pending[start].wait(), expected[start:], rtol=0, atol=ATOL)


def test_a_priority_changes_no_score(model: CrossEncoder, pairs: Pairs) -> None:
    expected = model.logits(pairs)
    pending = [model.submit(model.encode(pairs), batch_size=2, priority=priority) for priority in (3, 0, -2)]
    for each in pending:
        np.testing.assert_allclose(each.wait(), expected, rtol=0, atol=ATOL)


def test_progress_counts_the_pairs_of_each_batch(model: CrossEncoder, pairs: Pairs) -> None:
    finished: list[int] = []
    model.submit(model.encode(pairs), batch_size=3).wait(finished.append)
    assert sum(finished) == len(pairs)
    assert max(finished) <= 3


def test_several_threads_encode_and_submit_at_once(model: CrossEncoder, pairs: Pairs) -> None:
    expected = model.logits(pairs)
    failures: list[BaseException] = []

    def score(start: int) -> None:
        try:
            for _ in range(10):
                logits = model.submit(model.encode(pairs[start:])).wait()
                np.testing.assert_allclose(logits, expected[start:], rtol=0, atol=ATOL)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=score, args=(start,)) for start in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_prompt_and_a_max_length_hold_for_one_call_of_encode(model: CrossEncoder, pairs: Pairs) -> None:
    before = model.encode(pairs)
    encoded = model.encode(pairs, prompt="salt water ", max_length=12)
    assert encoded.lengths.max() == 12
    np.testing.assert_array_equal(
        encoded.ids, model.encode([(f"salt water {q}", p) for q, p in pairs], max_length=12).ids
    )
    expected = model.logits(pairs, prompt="salt water ", max_length=12)
    np.testing.assert_allclose(model.submit(encoded).wait(), expected, rtol=0, atol=ATOL)
    np.testing.assert_array_equal(model.encode(pairs).ids, before.ids)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"pair": 0}, "the limit of tokens of a pair=0: give a whole number from 1, or None"),
        ({"query": -1}, "the limit of tokens of a query=-1: give a whole number from 0"),
        ({"passage": 2.5}, "the limit of tokens of a passage=2.5"),
        ({"side": "LEFT"}, "side='LEFT' of limits: give right or left, or None"),
    ],
)
def test_limits_that_are_not_allowed_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        TextLimits(**wrong)


def test_limits_of_another_type_are_refused(model: CrossEncoder) -> None:
    limits: Any = {"passage": 9}
    calls: list[Callable[[], object]] = [
        lambda: model.encode([("a", "b")], limits=limits),
        lambda: model.rank("a", ["b"], limits=limits),
        lambda: model.count_windows([("a", "b")], Windows(length=20, stride=10), limits=limits),
    ]
    for call in calls:
        with pytest.raises(OptionError, match=r"limits=\{'passage': 9\}: give crossrt.TextLimits"):
            call()


def test_a_limit_of_any_size_keeps_shorter_texts(model: CrossEncoder) -> None:
    whole = model.encode([("the river", "is green")])
    limited = model.encode([("the river", "is green")], limits=TextLimits(pair=10**30, query=10**30, passage=10**30))
    np.testing.assert_array_equal(limited.ids, whole.ids)


def test_no_pairs_are_a_request_without_logits(two_label_bundle: Path) -> None:
    with CrossEncoder(two_label_bundle) as model:
        assert len(model.encode([])) == 0
        assert model.submit(model.encode([])).wait().shape == (0, 2)


def test_run_computes_a_batch_as_it_is_padded(model: CrossEncoder, pairs: Pairs) -> None:
    encoded = model.encode(pairs)
    batch = Batch.padded(encoded, np.arange(len(pairs)), model.bundle.manifest.pad_token_id, 60)
    logits = model.run(batch)
    assert (logits.shape, logits.dtype) == ((len(pairs), 1), np.float32)
    np.testing.assert_allclose(logits, model.logits(pairs), rtol=0, atol=ATOL)


def test_what_cannot_be_encoded_submitted_or_run_is_refused_in_words(model: CrossEncoder) -> None:
    with pytest.raises(InputError, match="item 1 has 1 texts; a pair has two"):
        model.encode([("a", "b"), ("c",)])  # type: ignore[list-item]
    with pytest.raises(InputError, match=r"expected pairs of texts, got str 'a'; pass \[\(query, passage\)"):
        model.encode("a")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="max_length=65, but the model has positions for 64 tokens"):
        model.encode([("a", "b")], max_length=65)
    with pytest.raises(OptionError, match="batch_size=0: give a whole number from 1"):
        model.submit(model.encode([("a", "b")]), batch_size=0)
    with pytest.raises(OptionError, match=r"priority=0\.5: give a whole number$"):
        model.submit(model.encode([("a", "b")]), priority=0.5)  # type: ignore[arg-type]
    with pytest.raises(
        ShapeError, match=r"a batch of 1 x 65 tokens does not fit this model(.|\n)*try      max_length=64"
    ):
        model.run(batch_of(1, 65))


IDS = np.arange(5, 9).reshape(1, 4)
CALLS: dict[str, Callable[[CrossEncoder], Any]] = {
    "predict": lambda model: model.predict([("a", "b")]),
    "predict of nothing": lambda model: model.predict([]),
    "rank": lambda model: model.rank("a", ["b"]),
    "logits": lambda model: model.logits([("a", "b")]),
    "submit": lambda model: model.submit(model.encode([("a", "b")])),
    "run": lambda model: model.run(batch_of(1, 4)),
    "model": lambda model: model.model(IDS),
    "auto model": lambda model: AutoModelForSequenceClassification(model)(IDS),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_closed_model_says_so_whatever_is_called(
    call: Callable[[CrossEncoder], Any], backend: str, bundle: Path
) -> None:
    pytest.importorskip(backend)
    with CrossEncoder(bundle, backend=backend, device="cpu") as model:
        call(model)
    with pytest.raises(BackendError, match=r"^this model is closed; open the bundle again$"):
        call(model)


def test_closing_the_token_model_closes_the_cross_encoder_too(bundle: Path) -> None:
    model = CrossEncoder(bundle)
    model.model.close()
    with pytest.raises(BackendError, match=r"^this model is closed; open the bundle again$"):
        model.predict(("a", "b"))
