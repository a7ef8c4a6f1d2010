"""Windows hold the tokens that plain slicing of the real tokenizer's tokens gives, and leave none out."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from crossrt.engine.errors import InputError, OptionError
from crossrt.engine.text import pair_tokenizer
from crossrt.engine.text.encoded_pairs import EncodedPairs, TruncationSide
from crossrt.engine.text.pair_tokenizer import PairTokenizer
from crossrt.engine.text.text_limits import TextLimits
from crossrt.engine.text.windows import Windows
from tests.conftest import REPOSITORY
from tests.engine.text.real_tokenizer import rows_of

DEMO = REPOSITORY / "demo/checkpoint/tokenizer.json"
WORDS = "the a river city is in of package unhappiness naïve 東京 . , x".split()
TEXT = st.lists(st.sampled_from(WORDS), max_size=60).map(" ".join)
AGGREGATIONS = ["max", "mean", "mean:2", "sum"]


@cache
def real(kind: str) -> Tokenizer:
    if kind == "bert":
        fields = json.loads(DEMO.read_text(encoding="utf-8"))
        fields["truncation"] = fields["padding"] = None
        return Tokenizer.from_str(json.dumps(fields))
    vocabulary = {token: number for number, token in enumerate(["<s>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    return tokenizer


def sliced(kind: str, query: str, passage: str, length: int, stride: int, first: bool) -> list[list[int]]:
    """Plain Python: the windows' tokens with special tokens, by the real tokenizer's own ids."""
    tokenizer = real(kind)
    q, p = (tokenizer.encode(text, add_special_tokens=False).ids for text in (query, passage))
    before, between, after = ([2], [3], [3]) if kind == "bert" else ([0], [1, 1], [1])
    if kind == "bert":
        before, between = [tokenizer.token_to_id("[CLS]")], [tokenizer.token_to_id("[SEP]")]
        after = between
    room = length - len(before) - len(between) - len(after) - len(q)
    begin, found = 0, []
    while True:
        found.append([*before, *q, *between, *p[begin : begin + room], *after])
        if first or begin + room >= len(p):
            return found
        begin += min(stride, room)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@settings(max_examples=200, deadline=None)
@given(
    query=st.lists(st.sampled_from(WORDS), max_size=5).map(" ".join),
    passages=st.lists(TEXT, max_size=5),
    length=st.integers(40, 80),
    stride=st.integers(1, 40),
    first=st.booleans(),
)
def test_windows_hold_what_slicing_gives(
    kind: str, query: str, passages: list[str], length: int, stride: int, first: bool
) -> None:
    encoder = PairTokenizer(real(kind), max_length=512)
    windows = Windows(length=length, stride=stride, aggregate="first" if first else "max")
    found = encoder.encode_windows([(query, passage) for passage in passages], windows)
    expected = [sliced(kind, query, passage, length, stride, first) for passage in passages]
    assert [ids for ids, _ in rows_of(found.pairs())] == [ids for each in expected for ids in each]
    assert np.diff(found.offsets).tolist() == [len(each) for each in expected]
    assert len(found) == len(passages)
    counted = encoder.count_windows([(query, passage) for passage in passages], windows)
    assert counted.tokens.tolist() == [sum(map(len, each)) for each in expected]
    assert not counted.cut.any()


@pytest.mark.parametrize("side", ["left", "right"])
def test_limits_cut_texts_before_windows_are_cut(side: TruncationSide) -> None:
    encoder = PairTokenizer(real("roberta"), max_length=512)
    windows = Windows(length=9, stride=3)
    pairs = [("the river", "a city is in the package of the river"), ("the river", "city")]
    limits = TextLimits(query=1, passage=7, side=side)
    query, passage = (
        ("river", "is in the package of the river") if side == "left" else ("the", "a city is in the package of")
    )
    expected = encoder.encode_windows([(query, passage), (query, "city")], windows)
    found = encoder.encode_windows(pairs, windows, limits=limits)
    assert rows_of(found.pairs()) == rows_of(expected.pairs())
    # Places are those in the whole passage, of which the left side lost two tokens.
    lost = 2 if side == "left" else 0
    assert found.window_starts.tolist() == [*(expected.window_starts[:-1] + lost).tolist(), 0]
    counted = encoder.count_windows(pairs, windows, limits=limits)
    assert counted.tokens.sum() == len(expected.pairs().ids)
    assert counted.cut.tolist() == [1 + 2, 1]


def test_parts_are_joined_to_the_pairs_that_one_call_gives() -> None:
    encoder = PairTokenizer(real("bert"), max_length=16)
    pairs = [("the river", "city " * count) for count in (3, 40, 0, 7, 20)]
    whole = encoder.encode(pairs)
    joined = EncodedPairs.joined([encoder.encode(pairs[:2]), encoder.encode(pairs[2:3]), encoder.encode(pairs[3:])])
    assert rows_of(joined) == rows_of(whole)
    assert joined.cut is not None
    assert whole.cut is not None
    assert joined.cut.tolist() == whole.cut.tolist()


def test_one_window_is_the_pair_as_it_is_without_windows() -> None:
    encoder = PairTokenizer(real("bert"), max_length=512)
    pairs = [("the river", "city " * 5), ("a", "")]
    windowed = encoder.encode_windows(pairs, Windows(length=512, stride=256))
    assert rows_of(windowed.pairs()) == rows_of(encoder.encode(pairs))


def test_a_window_is_found_in_the_text() -> None:
    encoder = PairTokenizer(real("bert"), max_length=512)
    passage = "the river is in the city, " * 30
    windowed = encoder.encode_windows([("a river", passage)], Windows(length=32, stride=8))
    tokens = real("bert").encode(passage, add_special_tokens=False).ids
    for place, size in zip(windowed.window_starts.tolist(), windowed.sizes.tolist(), strict=True):
        begin, end = encoder.window_text(passage, place, size)
        again = real("bert").encode(passage[begin:end], add_special_tokens=False).ids
        assert again == tokens[place : place + size]
    assert encoder.window_text("", 0, 0) == (0, 0)


@settings(max_examples=60, deadline=None)
@given(
    pieces=st.lists(
        st.sampled_from([*WORDS, " ", "\n", "\t", "\u0301", "cafe\u0301", "\u3000", "[SEP]", "\x1c"]), max_size=60
    ),
    place=st.floats(0, 1),
    size=st.integers(1, 12),
)
def test_a_window_is_found_in_a_part_as_in_the_whole_text(pieces: list[str], place: float, size: int) -> None:
    passage, encoder = "".join(pieces), PairTokenizer(real("bert"), max_length=512)
    count = len(real("bert").encode(passage, add_special_tokens=False))
    begin = int(place * max(0, count - 1))
    size = min(size, count - begin)
    whole = encoder.window_text(passage, begin, size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pair_tokenizer, "PART_CHARACTERS", 5)
        assert encoder.window_text(passage, begin, size) == whole


def test_a_window_of_a_long_text_is_found_without_tokenizing_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = PairTokenizer(real("bert"), max_length=512)
    passage = "the river is in the city, " * 10_000
    tokenized: list[int] = []
    one = len(encoder._tokenizer.encode("the river is in the city,", add_special_tokens=False))
    monkeypatch.setattr(encoder, "_tokenizer", CountingTokenizer(encoder._tokenizer, tokenized))
    begin, end = encoder.window_text(passage, 9_000 * one, one)
    assert (begin, end) == (9_000 * 26, 9_000 * 26 + 25)
    assert sum(tokenized) < 5_000


def test_a_window_with_a_token_that_holds_a_blank_is_found_in_the_whole_text(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Tokenizer.from_str(real("bert").to_str())
    tokenizer.add_special_tokens(["river city"])
    monkeypatch.setattr(pair_tokenizer, "PART_CHARACTERS", 6)
    begin, end = PairTokenizer(tokenizer, max_length=512).window_text("the river city is", 1, 1)
    assert "the river city is"[begin:end] == "river city"


class CountingTokenizer:
    """Notes the characters of the texts that the package tokenizers gets."""

    def __init__(self, tokenizer: Tokenizer, tokenized: list[int]) -> None:
        self._tokenizer, self._tokenized = tokenizer, tokenized

    def encode_batch(self, texts: list[str], **options: bool) -> list[Any]:
        self._tokenized += map(len, texts)
        return list(self._tokenizer.encode_batch(texts, **options))


@pytest.mark.parametrize(
    ("passage", "normalizer", "shown"),
    [
        ("cafe\u0301 river", None, "cafe\u0301"),
        ("cafe\u0301", None, "cafe\u0301"),
        ("cafe\u0301\u0323s", None, "cafe\u0301\u0323"),
        ("cafe \u0301river", None, "cafe"),
        ("cafe\u0301 river", normalizers.NFC(), "cafe\u0301"),
        ("\u1112\u1161\u11ab river", normalizers.NFC(), "\u1112\u1161\u11ab"),
    ],
    ids=ascii,
)
def test_a_window_ends_with_a_whole_character(passage: str, normalizer: Any, shown: str) -> None:
    """The tokenizer's offsets leave out an accent that it strips, or joins with its letter."""
    tokenizer = real("bert")
    if normalizer is not None:
        pieces = ["<unk>", "caf\u00e9", "cafe", "\ud55c"]
        tokenizer = Tokenizer(models.WordLevel({piece: row for row, piece in enumerate(pieces)}, unk_token="<unk>"))
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizers.WhitespaceSplit()
    encoder = PairTokenizer(tokenizer, max_length=512)
    tokens = tokenizer.encode(shown, add_special_tokens=False).ids
    begin, end = encoder.window_text(passage, 0, len(tokens))
    assert passage[begin:end] == shown
    first = tokenizer.encode(passage, add_special_tokens=False).ids[: len(tokens)]
    assert first == tokens, "these tokens"


@pytest.mark.parametrize("aggregate", AGGREGATIONS)
@settings(max_examples=100, deadline=None)
@given(counts=st.lists(st.integers(1, 6), max_size=8), labels=st.integers(1, 3), seed=st.integers(0, 999))
def test_scores_are_aggregated_as_plain_python_does_it(
    aggregate: str, counts: list[int], labels: int, seed: int
) -> None:
    logits = np.random.default_rng(seed).normal(0, 3, (sum(counts), labels)).astype(np.float32)
    offsets = np.concatenate(([0], np.cumsum(np.array(counts, dtype=np.int64)))).astype(np.int64)
    found = Windows(length=64, stride=32, aggregate=aggregate).aggregated(logits, offsets)
    plain = {
        "max": lambda values: max(values),
        "mean": lambda values: sum(values) / len(values),
        "mean:2": lambda values: sum(sorted(values)[-2:]) / len(values[-2:]),
        "sum": sum,
    }[aggregate]
    expected = [
        [plain([float(value) for value in logits[begin:end, label]]) for label in range(labels)]
        for begin, end in pairwise(offsets)
    ]
    np.testing.assert_allclose(found, np.array(expected, dtype=np.float32).reshape(len(counts), labels), rtol=1e-5)


def test_nan_of_a_window_is_not_hidden_by_the_best_of_the_others() -> None:
    logits = np.array([[1], [np.nan], [3]], dtype=np.float32)
    offsets = np.array([0, 2, 3])
    assert np.isnan(Windows(length=64, stride=32).aggregated(logits, offsets)[0, 0])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"stride": 0}, "stride of windows=0: give a whole number from 1"),
        ({"stride": 65}, "a stride of 65 tokens would leave out tokens between windows of 64"),
        ({"length": "64"}, "length of windows='64': give a whole number"),
        ({"aggregate": "median"}, "unknown aggregation 'median'"),
        ({"aggregate": "mean:0"}, "unknown aggregation 'mean:0'"),
        ({"aggregate": None}, "unknown aggregation None"),
        ({"aggregate": ["max"]}, "unknown aggregation"),
    ],
)
def test_windows_that_make_no_sense_are_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        Windows(**{"length": 64, "stride": 32, **wrong})  # type: ignore[arg-type]


def test_a_query_that_leaves_no_room_is_refused_by_its_number() -> None:
    encoder = PairTokenizer(real("bert"), max_length=512)
    pairs = [("a", "the city"), ("river " * 70, "the city")]
    with pytest.raises(InputError, match=r"pair 1: a query of \d+ tokens and 3 special tokens leave no room.* of 64"):
        encoder.encode_windows(pairs, Windows(length=64, stride=32))
    with pytest.raises(InputError, match="pair 0 holds a lone surrogate"):
        encoder.encode_windows([("a", "\ud800")], Windows(length=64, stride=32))


def test_other_threads_go_on_while_the_place_of_a_window_is_looked_for() -> None:
    encoder = PairTokenizer.from_file(DEMO, max_length=128)
    passage = " ".join(f"the river number {number}" for number in range(200_000))
    stop, pauses = threading.Event(), list[float]()

    def tick() -> None:
        last = time.perf_counter()
        while not stop.wait(0.001):
            now = time.perf_counter()
            pauses.append(now - last)
            last = now

    shares = []
    with ThreadPoolExecutor(1) as threads:
        ticking = threads.submit(tick)
        for _ in range(3):  # a busy machine pauses too
            pauses.clear()
            begin = time.perf_counter()
            encoder.window_text(passage, 600_000, 100)
            shares.append(max(pauses, default=1.0) / (time.perf_counter() - begin))
        stop.set()
        ticking.result()
    assert min(shares) < 0.5
