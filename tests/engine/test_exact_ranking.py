"""A model in a cheaper precision ranks as FP32 does where it is asked to, and long passages are scored in windows."""

import json
import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from crossrt import CrossEncoder
from crossrt.engine.activation import apply
from crossrt.engine.bundle.manifest import MANIFEST
from crossrt.engine.errors import BackendError, BundleError, InputError, OptionError, StoreError
from crossrt.engine.precision import Precision
from crossrt.engine.runtime import exact_ranking
from crossrt.engine.runtime.cancellation import Cancellation
from crossrt.engine.runtime.cpu_scorer import CpuScorer
from crossrt.engine.runtime.pending import Pending
from crossrt.engine.selection.execution_config import CpuConfig, GpuConfig
from crossrt.engine.store.passage_store import PassageStore
from crossrt.engine.store.preparation import WHOLE, prepare
from crossrt.engine.text.encoded_pairs import EncodedPairs
from crossrt.engine.text.pair_tokenizer import PairTokenizer
from crossrt.engine.text.text_limits import TextLimits
from crossrt.engine.text.tokenizer import read_tokenizer
from crossrt.engine.text.truncation import Truncation
from crossrt.engine.text.windows import Windows
from tests.engine.samples import QUERY, in_threads, passages

WHOLE_WORDS = "berlin is city the river long green people".split()
"""Each of them is one token of the test vocabulary."""
WINDOWS = Windows(length=24, stride=8)


def opened(path: Path, precision: str = "int8", **options: Any) -> CrossEncoder:
    return CrossEncoder(path, precision=precision, backend="onnxruntime", device="cpu", **options)


@pytest.fixture(scope="module")
def models(rounded: Path) -> Iterator[tuple[CrossEncoder, CrossEncoder]]:
    with opened(rounded, "fp32") as precise, opened(rounded) as cheap:
        yield precise, cheap


def same(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> bool:
    """Whether two results name the same passages in the same order; scores may differ as a batch's last bits do."""
    np.testing.assert_allclose([each["score"] for each in ours], [each["score"] for each in theirs], atol=1e-5)
    return [each["corpus_id"] for each in ours] == [each["corpus_id"] for each in theirs]


@pytest.mark.parametrize("k", [1, 3, 10, 40, 100])
def test_the_best_are_those_of_fp32_with_its_scores(models: tuple[CrossEncoder, CrossEncoder], k: int) -> None:
    precise, cheap = models
    plain = 0
    for seed in range(20):
        documents = passages(100, seed=seed)
        expected = precise.rank(QUERY, documents, top_k=k)
        assert same(cheap.rank(QUERY, documents, top_k=k, exact=True), expected)
        plain += [each["corpus_id"] for each in cheap.rank(QUERY, documents, top_k=k)] == [
            each["corpus_id"] for each in expected
        ]
    assert plain < 20, "the rounded model alone ranks otherwise, or nothing was tested"


@pytest.mark.parametrize("limits", [None, TextLimits(passage=6)])
@pytest.mark.parametrize("exact", [False, True])
def test_pairs_that_were_encoded_are_not_tokenized_again(
    exact: bool, limits: TextLimits | None, models: tuple[CrossEncoder, CrossEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, cheap = models
    documents = passages(100, seed=3)
    expected = cheap.rank(QUERY, documents, top_k=5, exact=exact, limits=limits)
    encoded = cheap.encode([(QUERY, document) for document in documents], limits=limits)
    for name in ("encode", "encode_within"):
        monkeypatch.setattr(PairTokenizer, name, lambda *_, **__: pytest.fail("tokenized again"))
    assert same(cheap.rank(QUERY, documents, top_k=5, exact=exact, encoded=encoded), expected)


@pytest.mark.parametrize(
    ("count", "options", "said"),
    [
        (4, {}, "encoded has 4 pairs, and there are 5 documents"),
        (5, {"windows": WINDOWS}, "encoded and windows exclude each other"),
        (5, {"limits": TextLimits(pair=9)}, "encoded and limits exclude each other"),
        (5, {"prompt": "x"}, "encoded and prompt exclude each other"),
        (5, {"passage_ids": ["a"]}, "encoded and passage_ids exclude each other"),
    ],
)
def test_encoded_pairs_that_do_not_fit_are_refused(
    count: int, options: dict[str, Any], said: str, models: tuple[CrossEncoder, CrossEncoder]
) -> None:
    documents = passages(5, seed=3)
    encoded = models[1].encode([(QUERY, document) for document in documents[:count]])
    with pytest.raises(OptionError, match=said):
        models[1].rank(QUERY, documents, encoded=encoded, **options)


def test_few_pairs_are_scored_in_fp32(
    models: tuple[CrossEncoder, CrossEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, cheap = models
    documents = passages(300, seed=5)
    precise = cheap._exact.scorer()
    counted: list[int] = []
    submit = precise.submit
    monkeypatch.setattr(
        precise, "submit", lambda pairs, **options: (counted.append(len(pairs)), submit(pairs, **options))[1]
    )
    cheap.rank(QUERY, documents, top_k=3, exact=True)
    assert 3 <= sum(counted) < 60


def test_the_error_is_that_of_the_kernels_that_the_model_was_opened_with(
    models: tuple[CrossEncoder, CrossEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No request looks for kernels again, which takes time and can find others, as while an export judges some."""

    def looked(*_: Any) -> str:
        raise AssertionError("the kernels were looked for")

    monkeypatch.setattr(exact_ranking, "parity_key", looked)
    assert len(models[1].rank(QUERY, passages(30, seed=0), top_k=3, exact=True)) == 3


def test_auto_with_a_top_k_is_exact_where_that_is_faster_and_else_as_before(
    rounded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = passages(60, seed=3)
    with opened(rounded, "fp32") as precise, opened(rounded) as cheap, opened(rounded, "auto") as auto:
        assert auto.precision.value == "int8"
        assert same(auto.rank(QUERY, documents, top_k=5), cheap.rank(QUERY, documents, top_k=5)), "by ONNX Runtime"
        monkeypatch.setattr(exact_ranking, "is_faster", lambda config, top_k, count: (top_k, count) == (5, 60))
        assert same(auto.rank(QUERY, documents, top_k=5), precise.rank(QUERY, documents, top_k=5))
        assert same(auto.rank(QUERY, documents, top_k=6), cheap.rank(QUERY, documents, top_k=6))
        assert same(auto.rank(QUERY, documents), cheap.rank(QUERY, documents))
        assert same(auto.rank(QUERY, documents, top_k=5, exact=False), cheap.rank(QUERY, documents, top_k=5))
        assert same(auto.rank(QUERY, documents, top_k=6, exact=True), precise.rank(QUERY, documents, top_k=6))


def test_auto_scores_no_list_in_fp32_throughout(rounded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an activation that may turn the order round FP32 would have to score all."""
    monkeypatch.setattr(exact_ranking, "is_faster", lambda config, top_k, count: True)
    monkeypatch.setattr(exact_ranking, "open_scorer", lambda *_: pytest.fail("FP32 was opened"))
    documents = passages(60, seed=3)

    def turned(logits: Any) -> Any:
        return -logits

    with opened(rounded) as cheap, opened(rounded, "auto") as auto:
        found, expected = (model.rank(QUERY, documents, top_k=5, activation_fn=turned) for model in (auto, cheap))
    assert same(found, expected)


@pytest.mark.parametrize(
    ("top_k", "count", "faster"),
    [
        (1, 13, False),
        (1, 14, True),
        (2, 10, False),
        (5, 20, False),
        (5, 30, True),
        (10, 50, True),
        (10, 49, False),
        (100, 1000, True),
    ],
)
def test_an_exact_ranking_is_faster_where_it_was_measured_so(top_k: int, count: int, faster: bool) -> None:
    config = CpuConfig(
        precision=Precision.INT8, backend="native", threads=2, streams=2, batch_size=32, reason="asked for"
    )
    assert exact_ranking.is_faster(config, top_k, count) == faster
    for other in ("onnxruntime", "openvino"):
        assert not exact_ranking.is_faster(replace(config, backend=other), top_k, count)
    gpu = GpuConfig(precision=Precision.FP16, backend="native", reason="asked for", ordinals=(0,))
    assert not exact_ranking.is_faster(gpu, top_k, count), "not measured"


def test_fp32_is_exact_already(rounded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = passages(30)
    with opened(rounded, "fp32") as precise:
        monkeypatch.setattr(exact_ranking, "open_scorer", lambda *_: pytest.fail("a second model was opened"))
        assert precise.rank(QUERY, documents, top_k=4, exact=True) == precise.rank(QUERY, documents, top_k=4)


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", lambda logits: -logits])
def test_activations_are_applied_and_what_may_turn_the_order_round_is_scored_whole(
    models: tuple[CrossEncoder, CrossEncoder], activation: Any
) -> None:
    precise, cheap = models
    documents = passages(80, seed=8)
    expected = precise.rank(QUERY, documents, top_k=7, activation_fn=activation)
    assert same(cheap.rank(QUERY, documents, top_k=7, exact=True, activation_fn=activation), expected)


@pytest.mark.parametrize("labels", [2, 3])
@pytest.mark.parametrize("softmax", [False, True])
def test_models_with_several_labels_rank_by_fp32s_margin(
    make_rounded: Callable[..., Path], labels: int, softmax: bool
) -> None:
    path = make_rounded(labels=labels, seed=labels)
    documents = passages(80, seed=4)
    options: dict[str, Any] = {} if labels == 2 else {"relevant_label": 1}
    manifest = json.loads((path / MANIFEST).read_text())
    assert manifest["models"]["int8"]["score_errors"]["onnxruntime"]["pairs"] == 500
    with opened(path, "fp32", **options) as precise, opened(path, **options) as cheap:
        for activation in (None, lambda logits: -logits):
            found = [
                model.rank(QUERY, documents, 6, apply_softmax=softmax, activation_fn=activation, exact=True)
                for model in (cheap, precise)
            ]
            assert same(*found)


@pytest.mark.parametrize("labels", [2, 3])
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "identity"])
def test_the_softmax_of_activated_logits_is_ranked_as_in_fp32(
    make_rounded: Callable[..., Path], labels: int, activation: str
) -> None:
    path = make_rounded(labels=labels, seed=labels)
    options: dict[str, Any] = {} if labels == 2 else {"relevant_label": 1}
    with opened(path, "fp32", **options) as precise, opened(path, **options) as cheap:
        for seed in range(4):
            documents = passages(60, seed=seed)
            found = [
                model.rank(QUERY, documents, top_k=6, apply_softmax=True, activation_fn=activation, exact=True)
                for model in (cheap, precise)
            ]
            assert same(*found)


def test_a_function_that_only_has_the_name_of_an_activation_is_scored_whole(
    models: tuple[CrossEncoder, CrossEncoder],
) -> None:
    def identity(logits: Any) -> Any:
        return -logits

    precise, cheap = models
    documents = passages(80, seed=8)
    expected = precise.rank(QUERY, documents, top_k=7, activation_fn=identity)
    assert same(cheap.rank(QUERY, documents, top_k=7, exact=True, activation_fn=identity), expected)


@pytest.mark.parametrize("exact", [0, 1, "false", "no", [], np.array([True])])
def test_exact_is_true_false_or_none(models: tuple[CrossEncoder, CrossEncoder], exact: Any) -> None:
    for model in models:
        with pytest.raises(OptionError, match="give True, False, or None"):
            model.rank(QUERY, passages(10), top_k=2, exact=exact)


def test_numpys_truth_values_are_truth_values(models: tuple[CrossEncoder, CrossEncoder]) -> None:
    precise, cheap = models
    documents = passages(60)
    assert cheap.rank(QUERY, documents, top_k=4, exact=np.False_) == cheap.rank(QUERY, documents, top_k=4)
    assert same(cheap.rank(QUERY, documents, top_k=4, exact=np.True_), precise.rank(QUERY, documents, top_k=4))


def test_scores_that_an_activation_makes_nan_are_refused(models: tuple[CrossEncoder, CrossEncoder]) -> None:
    def broken(logits: Any) -> Any:
        return logits * np.nan

    for model in models:
        with pytest.raises(BackendError, match="the activation gives NaN, which has no order, for 10 of 10 passages"):
            model.rank(QUERY, passages(10), activation_fn=broken)


def test_an_error_in_a_late_chunk_names_the_pair_among_all(models: tuple[CrossEncoder, CrossEncoder]) -> None:
    pairs = [(QUERY, "a city")] * 9001
    pairs[9000] = (QUERY, "\ud800")
    with pytest.raises(InputError, match=r"^pair 9000 holds a lone surrogate"):
        models[0].predict(pairs)
    pairs[9000] = ("a river " * 20, "a city")
    with pytest.raises(InputError, match=r"^pair 9000: a query of"):
        models[0].predict(pairs, windows=Windows(length=24, stride=12))


def test_a_length_and_windows_exclude_each_other(models: tuple[CrossEncoder, CrossEncoder]) -> None:
    with pytest.raises(OptionError, match="max_length=16 and windows exclude each other"):
        models[0].logits([(QUERY, "a city")], max_length=16, windows=Windows(length=24, stride=12))


def test_short_lists_odd_k_and_empty_lists(models: tuple[CrossEncoder, CrossEncoder]) -> None:
    precise, cheap = models
    for count, k in ((0, 3), (1, 1), (4, 10), (10, 0)):
        documents = passages(count)
        expected = precise.rank(QUERY, documents, top_k=k)
        assert same(cheap.rank(QUERY, documents, top_k=k, exact=True), expected)
        assert len(expected) == min(count, k)
    assert same(cheap.rank(QUERY, ["a city"] * 20, top_k=3, exact=True), precise.rank(QUERY, ["a city"] * 20, top_k=3))


def test_what_is_missing_is_said(rounded: Path, tmp_path: Path) -> None:
    with opened(rounded) as cheap:
        with pytest.raises(OptionError, match="exact=True needs top_k, the number of best passages"):
            cheap.rank(QUERY, passages(5), exact=True)
        with pytest.raises(OptionError, match="top_k=-1"):
            cheap.rank(QUERY, passages(5), top_k=-1, exact=True)
    old = tmp_path / "old"
    shutil.copytree(rounded, old)
    fields = json.loads((old / MANIFEST).read_text())
    fields["schema"] = 2
    del fields["models"]["int8"]["score_errors"], fields["models"]["fp32"]["score_errors"]
    (old / MANIFEST).write_text(json.dumps(fields))
    with (
        opened(old) as cheap,
        pytest.raises(BundleError, match=r"does not say how far.*Export it again \(crossrt export"),
    ):
        cheap.rank(QUERY, passages(5), top_k=2, exact=True)
    del fields["models"]["fp32"]
    (old / MANIFEST).write_text(json.dumps(fields))
    with opened(old) as cheap, pytest.raises(BundleError, match="holds no fp32 model to decide by"):
        cheap.rank(QUERY, passages(5), top_k=2, exact=True)


@pytest.mark.parametrize("k", [3.0, "3", True])
def test_k_is_a_whole_number(models: tuple[CrossEncoder, CrossEncoder], k: Any) -> None:
    with pytest.raises(OptionError, match="top_k="):
        models[1].rank(QUERY, passages(9), top_k=k, exact=True)


def test_a_precision_that_failed_its_check_still_ranks_exactly_where_it_is_allowed(
    rounded: Path, models: tuple[CrossEncoder, CrossEncoder], tmp_path: Path
) -> None:
    failed = tmp_path / "failed"
    shutil.copytree(rounded, failed)
    fields = json.loads((failed / MANIFEST).read_text())
    fields["models"]["int8"]["parity"] = {**(fields["models"]["fp32"]["parity"] or {}), "passed": False}
    (failed / MANIFEST).write_text(json.dumps(fields))
    documents = passages(60)
    expected = models[0].rank(QUERY, documents, top_k=5)
    with pytest.raises(BundleError, match="failed"):
        opened(failed)
    with opened(failed, allow_failed=True) as cheap:
        assert same(cheap.rank(QUERY, documents, top_k=5, exact=True), expected)
    with opened(failed, "auto") as chosen:
        assert chosen.precision == "fp32"
        assert same(chosen.rank(QUERY, documents, top_k=5), expected)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("scorer", ["cheap", "precise"])
def test_scores_that_are_no_numbers_hide_nothing(
    models: tuple[CrossEncoder, CrossEncoder], monkeypatch: pytest.MonkeyPatch, scorer: str, number: float
) -> None:
    """NaN and Inf from INT8 are scored again in FP32. From FP32 they are an error, as in a plain ranking."""
    precise, cheap = models
    documents = passages(60)
    expected = precise.rank(QUERY, documents, top_k=5)
    broken = cheap._scorer if scorer == "cheap" else cheap._exact.scorer()
    submit = broken.submit

    def with_nan(*arguments: Any, **options: Any) -> Pending:
        pending = submit(*arguments, **options)
        pending.wait()[:] = np.where(np.arange(len(pending.wait()))[:, None] == 0, number, pending.wait())
        return pending

    monkeypatch.setattr(broken, "submit", with_nan)
    if scorer == "cheap":
        assert same(cheap.rank(QUERY, documents, top_k=5, exact=True), expected)
    else:
        with pytest.raises(BackendError, match="NaN or Inf"):
            cheap.rank(QUERY, documents, top_k=5, exact=True)


@pytest.mark.parametrize("wrong", [{"mean": 0, "deviation": -1, "excess": 0.1, "pairs": 9}, {"mean": 0.1}, "much"])
def test_a_manifest_with_impossible_errors_is_refused(rounded: Path, tmp_path: Path, wrong: Any) -> None:
    path = tmp_path / "damaged"
    shutil.copytree(rounded, path)
    fields = json.loads((path / MANIFEST).read_text())
    fields["models"]["int8"]["score_errors"]["onnxruntime"] = wrong
    (path / MANIFEST).write_text(json.dumps(fields))
    with pytest.raises(BundleError, match="score_errors"):
        opened(path)


def test_many_threads_rank_exactly_at_once(rounded: Path) -> None:
    documents = [passages(60, seed=seed) for seed in range(8)]
    with opened(rounded, "fp32") as precise, opened(rounded) as cheap:
        expected = [precise.rank(QUERY, each, top_k=5) for each in documents]
        found: list[Any] = [None] * len(documents)

        def rank(place: int) -> None:
            found[place] = cheap.rank(QUERY, documents[place], top_k=5, exact=True)

        in_threads(rank, len(documents))
    assert all(map(same, found, expected))


def test_both_passes_of_an_exact_ranking_take_turns_with_large_requests(
    rounded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = CpuScorer._compute

    def slow_if_large(self: CpuScorer, session: Any, pairs: EncodedPairs, *arguments: Any) -> int:
        time.sleep(0.002 if len(pairs) > 500 else 0)
        return compute(self, session, pairs, *arguments)

    monkeypatch.setattr(CpuScorer, "_compute", slow_if_large)
    with opened(rounded) as cheap:
        alone = cheap.rank(QUERY, passages(9), top_k=2, exact=True)
        pairs = cheap.encode([(QUERY, passage) for passage in passages(2000)])
        both = [cheap.submit(pairs, batch_size=4), cheap._exact.scorer().submit(pairs, batch_size=4)]
        beside = cheap.rank(QUERY, passages(9), top_k=2, exact=True)
        left = [pending.waiting_tokens / int(pairs.lengths.sum()) for pending in both]
        assert same(beside, alone)
        assert min(left) > 0.5, f"the ranking waited for a few batches of the large requests, of which {left} are left"
        for pending in both:
            pending.cancel()


@pytest.fixture
def passes(
    models: tuple[CrossEncoder, CrossEncoder], monkeypatch: pytest.MonkeyPatch
) -> dict[str, list[dict[str, Any]]]:
    """Return the options of each request to the scorers from now on, by precision."""
    _, cheap = models
    seen: dict[str, list[dict[str, Any]]] = {"int8": [], "fp32": []}

    def spied(scorer: Any, name: str) -> None:
        submit = scorer.submit
        monkeypatch.setattr(
            scorer, "submit", lambda pairs, **options: (seen[name].append(options), submit(pairs, **options))[1]
        )

    spied(cheap._scorer, "int8")
    spied(cheap._exact.scorer(), "fp32")
    return seen


@pytest.mark.parametrize("windows", [None, WINDOWS])
def test_all_passes_have_the_calls_priority(
    models: tuple[CrossEncoder, CrossEncoder], passes: dict[str, list[dict[str, Any]]], windows: Windows | None
) -> None:
    _, cheap = models
    cheap.rank(QUERY, passages(60, words=40), top_k=3, exact=True, windows=windows, priority=-7)
    assert [options["priority"] for options in passes["int8"]] == [-7]
    assert {options["priority"] for options in passes["fp32"]} == {-7}


@pytest.mark.parametrize("windows", [None, WINDOWS])
def test_a_call_that_is_cancelled_in_its_first_pass_has_no_second(
    models: tuple[CrossEncoder, CrossEncoder],
    passes: dict[str, list[dict[str, Any]]],
    windows: Windows | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, cheap = models
    cancellation, compute, computed = Cancellation(), CpuScorer._compute, list[int]()

    def cancelling(self: CpuScorer, *arguments: Any) -> int:
        computed.append(1)
        cancellation.cancel()
        return compute(self, *arguments)

    monkeypatch.setattr(CpuScorer, "_compute", cancelling)
    with pytest.raises(BackendError, match="this request was cancelled"):
        cheap.rank(
            QUERY,
            passages(300, words=40),
            top_k=3,
            exact=True,
            windows=windows,
            batch_size=4,
            cancellation=cancellation,
        )
    assert len(computed) <= cheap.threads, "batches that had begun"
    assert (len(passes["int8"]), passes["fp32"]) == (1, [])


def test_a_call_that_is_cancelled_in_its_second_pass_ends(
    models: tuple[CrossEncoder, CrossEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, cheap = models
    cancellation, precise, computed = Cancellation(), cheap._exact.scorer(), list[int]()
    compute = CpuScorer._compute

    def cancelling(self: CpuScorer, *arguments: Any) -> int:
        if self is precise:
            computed.append(1)
            cancellation.cancel()
        return compute(self, *arguments)

    monkeypatch.setattr(CpuScorer, "_compute", cancelling)
    with pytest.raises(BackendError, match="this request was cancelled"):
        cheap.rank(QUERY, passages(300), top_k=60, exact=True, batch_size=4, cancellation=cancellation)
    assert len(computed) <= cheap.threads
    monkeypatch.undo()
    assert len(cheap.rank(QUERY, passages(20), top_k=2, exact=True)) == 2, "the model goes on"


def test_a_call_that_was_cancelled_before_computes_nothing(
    models: tuple[CrossEncoder, CrossEncoder], passes: dict[str, list[dict[str, Any]]]
) -> None:
    _, cheap = models
    cancellation = Cancellation()
    cancellation.cancel()
    with pytest.raises(BackendError, match="this request was cancelled"):
        cheap.rank(QUERY, passages(9), cancellation=cancellation)
    assert passes["int8"] == []


def test_a_closed_model_ranks_nothing_and_frees_both_precisions(rounded: Path) -> None:
    cheap = opened(rounded)
    cheap.rank(QUERY, passages(9), top_k=2, exact=True)
    precise = cheap._exact.scorer()
    cheap.close()
    with pytest.raises(BackendError, match="closed"):
        cheap.rank(QUERY, passages(9), top_k=2, exact=True)
    with pytest.raises(BackendError, match="closed"):
        precise.submit(cheap.encode([(QUERY, "a city")]), batch_size=1)


# -- windows


def plain_windows(bundle: Path, passage: str) -> list[tuple[str, str]]:
    """Cut a text into windows as pairs of texts. Each word of these passages is one token."""
    tokens = Tokenizer.from_file(str(bundle / "tokenizer.json")).encode(QUERY, add_special_tokens=False).ids
    words = passage.split()
    room = WINDOWS.length - 3 - len(tokens)
    starts = [0]
    while starts[-1] + room < len(words):
        starts.append(starts[-1] + WINDOWS.stride)
    return [(QUERY, " ".join(words[begin : begin + room])) for begin in starts]


@pytest.fixture(scope="module")
def long_passages() -> list[str]:
    chance = random.Random(7)
    return [" ".join(chance.choices(WHOLE_WORDS, k=count)) for count in (1, 15, 17, 18, 40, 90, 200)]


@pytest.mark.parametrize(
    ("aggregate", "plain"), [("max", max), ("mean", np.mean), ("sum", sum), ("first", lambda s: s[0])]
)
def test_windows_score_as_their_texts_alone(
    bundle: Path, models: tuple[CrossEncoder, CrossEncoder], long_passages: list[str], aggregate: str, plain: Any
) -> None:
    precise, _ = models
    tokens = Tokenizer.from_file(str(bundle / "tokenizer.json")).encode(" ".join(WHOLE_WORDS), add_special_tokens=False)
    assert len(tokens.ids) == len(WHOLE_WORDS)
    windows = Windows(length=WINDOWS.length, stride=WINDOWS.stride, aggregate=aggregate)
    expected = np.array(
        [plain(precise.logits(plain_windows(bundle, passage))[:, 0].tolist()) for passage in long_passages],
        dtype=np.float32,
    )
    pairs = [(QUERY, passage) for passage in long_passages]
    np.testing.assert_allclose(precise.logits(pairs, windows=windows)[:, 0], expected, atol=2e-5)
    np.testing.assert_allclose(
        precise.predict(pairs, windows=windows), apply(precise.activation_fn, expected), atol=2e-5
    )


def test_sentence_transformers_gives_windows_the_same_scores(
    checkpoint: Path, bundle: Path, long_passages: list[str]
) -> None:
    reference = pytest.importorskip("sentence_transformers").CrossEncoder(str(checkpoint), device="cpu")
    expected = [max(reference.predict(plain_windows(bundle, passage))) for passage in long_passages]
    with CrossEncoder(bundle, device="cpu") as model:
        found = model.predict([(QUERY, passage) for passage in long_passages], windows=WINDOWS)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_window_that_won_is_shown_in_the_text(
    models: tuple[CrossEncoder, CrossEncoder], long_passages: list[str]
) -> None:
    precise, cheap = models
    for model, options in ((precise, {}), (cheap, {"exact": True, "top_k": 3})):
        for each in model.rank(QUERY, long_passages, windows=WINDOWS, **options):
            begin, end = each["window"]
            text = long_passages[each["corpus_id"]][begin:end]
            assert float(precise.predict((QUERY, text))) == pytest.approx(each["score"], abs=2e-5)


@pytest.mark.parametrize("aggregate", ["max", "sum", "mean:2"])
def test_exact_rankings_hold_with_windows(models: tuple[CrossEncoder, CrossEncoder], aggregate: str) -> None:
    precise, cheap = models
    windows = Windows(length=24, stride=8, aggregate=aggregate)
    for seed in range(5):
        documents = passages(60, words=80, seed=seed)
        expected = precise.rank(QUERY, documents, top_k=5, windows=windows)
        found = cheap.rank(QUERY, documents, top_k=5, windows=windows, exact=True)
        assert same(found, expected)
        assert [each["window"] for each in found] == [each["window"] for each in expected]


@pytest.mark.parametrize(("aggregate", "summed"), [("sum", True), ("max", False), ("mean:2", False)])
def test_errors_add_up_only_where_windows_are_summed(
    models: tuple[CrossEncoder, CrossEncoder], aggregate: str, summed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights: list[Any] = []
    real = exact_ranking.exact_top_k
    monkeypatch.setattr(
        exact_ranking, "exact_top_k", lambda *each, **named: weights.append(named["weights"]) or real(*each, **named)
    )
    documents = ["city " * count for count in (3, 40, 80, 1)]
    models[1].rank(QUERY, documents, top_k=2, windows=Windows(length=24, stride=8, aggregate=aggregate), exact=True)
    [found] = weights
    counts = [len(plain_windows(models[1].bundle.path, document)) for document in documents]
    assert (found.tolist() if summed else found) == (counts if summed else None)


def test_windows_that_the_model_cannot_take_are_refused(models: tuple[CrossEncoder, CrossEncoder]) -> None:
    precise, _ = models
    with pytest.raises(OptionError, match="windows of 65 tokens, but the model takes 64"):
        precise.rank(QUERY, ["a city"], windows=Windows(length=65, stride=8))
    with pytest.raises(InputError, match=r"pair 0: a query of .* leave no room"):
        precise.rank("river " * 30, ["a city"], windows=WINDOWS)


def test_windows_must_be_windows(models: tuple[CrossEncoder, CrossEncoder]) -> None:
    precise, _ = models
    wrong: Any
    for wrong in (24, {"length": 24, "stride": 8}):
        with pytest.raises(OptionError, match=r"give crossrt\.Windows\(length="):
            precise.rank(QUERY, ["a city"], windows=wrong)


def test_prepared_passages_are_cut_into_the_same_windows(
    models: tuple[CrossEncoder, CrossEncoder], long_passages: list[str], tmp_path: Path
) -> None:
    precise, cheap = models
    (tmp_path / "p.tsv").write_text("".join(f"p{n}\t{text}\n" for n, text in enumerate(long_passages)))
    options: dict[str, Any] = {"tokenizer_sha256": precise.bundle.tokenizer_sha256}
    tokenizer = read_tokenizer(precise.bundle.tokenizer_file)
    prepare(tmp_path / "p.tsv", tmp_path / "whole", tokenizer, limit=WHOLE, **options)
    prepare(tmp_path / "p.tsv", tmp_path / "part", tokenizer, limit=64, **options)
    ids = [f"p{n}" for n in range(len(long_passages))]
    store = PassageStore(tmp_path / "whole")
    texts = precise.rank(QUERY, long_passages, windows=WINDOWS)
    stored = precise.rank(QUERY, passage_ids=ids, passages=store, windows=WINDOWS)
    assert same(stored, texts)
    for each, shown in zip(stored, texts, strict=True):  # a word is a token
        begin, end = shown["window"]
        before, inside = (
            len(long_passages[shown["corpus_id"]][part].split()) for part in (slice(begin), slice(begin, end))
        )
        assert each["window"] == (before, before + inside), "in tokens"
    found = cheap.rank(QUERY, passage_ids=ids, passages=store, windows=WINDOWS, top_k=2, exact=True)
    assert same(found, texts[:2])
    with pytest.raises(StoreError, match=r"holds 64 tokens of the passage 'p5', which is longer: windows need whole"):
        precise.rank(QUERY, passage_ids=ids, passages=PassageStore(tmp_path / "part"), windows=WINDOWS)


def test_what_is_cut_is_counted_once(rounded: Path, checkpoint: Path) -> None:
    transformers = pytest.importorskip("transformers")
    documents = ["a city", "long river " * 80, "green " * 200]
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(checkpoint))
    lengths = [len(tokenizer(QUERY, document, truncation=False)["input_ids"]) for document in documents]
    expected = Truncation(pairs=3, cut=2, tokens=sum(max(0, length - 64) for length in lengths))
    with opened(rounded) as cheap:
        assert cheap.truncation == Truncation()
        cheap.rank(QUERY, documents, top_k=1, exact=True)
        assert cheap.truncation == expected
        cheap.rank(QUERY, documents, windows=WINDOWS)
        assert cheap.truncation.cut == 2, "windows lose nothing"
