"""Tokenization gives the tokens of transformers, and may be called from any thread."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from crossrt.engine.errors import BundleError, OptionError
from crossrt.engine.text import pair_tokenizer
from crossrt.engine.text.encoded_pairs import TruncationSide
from crossrt.engine.text.pair_template import PairTemplate
from crossrt.engine.text.pair_tokenizer import PairTokenizer, without_truncation_and_padding
from crossrt.engine.text.text_limits import TextLimits
from crossrt.engine.text.wordpiece import WordPiece
from tests.engine.samples import in_threads
from tests.engine.text.real_tokenizer import SIDES, real_rows, rows_of

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=80)


@pytest.fixture(scope="module")
def tokenizer(bundle: Path) -> Tokenizer:
    return Tokenizer.from_file(str(bundle / "tokenizer.json"))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=TEXT, passage=TEXT, max_length=st.integers(4, 64), side=st.sampled_from(SIDES))
def test_ids_types_and_truncation_equal_transformers(
    checkpoint: Path, tokenizer: Tokenizer, query: str, passage: str, max_length: int, side: TruncationSide
) -> None:
    own = _reference(checkpoint)
    own.truncation_side = side
    reference = own([query], [passage], truncation="longest_first", max_length=max_length)
    encoded = PairTokenizer(tokenizer, max_length=max_length, truncation_side=side).encode([(query, passage)])
    assert encoded.ids.tolist() == reference["input_ids"][0]
    assert encoded.type_ids.tolist() == reference["token_type_ids"][0]


_references: dict[Path, Any] = {}


def _reference(checkpoint: Path):  # type: ignore[no-untyped-def]
    transformers = pytest.importorskip("transformers")
    if checkpoint not in _references:
        _references[checkpoint] = transformers.AutoTokenizer.from_pretrained(checkpoint)
    return _references[checkpoint]


def test_a_tokenizers_own_truncation_and_padding_are_discarded(tokenizer: Tokenizer) -> None:
    own = Tokenizer.from_str(tokenizer.to_str())
    own.enable_truncation(8)
    own.enable_padding(length=8)
    pairs = [("a", "b"), ("city " * 20, "river")]
    lengths = PairTokenizer(own, max_length=64).encode(pairs).lengths.tolist()
    assert lengths == PairTokenizer(tokenizer, max_length=64).encode(pairs).lengths.tolist() == [5, 24]
    assert own.truncation is not None, "the caller's tokenizer is left as it was"
    stored = json.loads(without_truncation_and_padding(own.to_str()))
    assert stored["truncation"] is stored["padding"] is None
    assert stored["model"] == json.loads(tokenizer.to_str())["model"]


@settings(max_examples=200, deadline=None)
@given(query=TEXT, passage=TEXT, max_length=st.integers(4, 40), side=st.sampled_from(SIDES))
def test_without_wordpiece_texts_are_truncated_on_the_same_side(
    tokenizer: Tokenizer, query: str, passage: str, max_length: int, side: TruncationSide
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WordPiece, "of", lambda tokenizer: None)
        encoder = PairTokenizer(tokenizer, max_length=max_length, truncation_side=side)
    encoded = encoder.encode([(query, passage)])
    rows = real_rows(tokenizer, [(query, passage)], max_length=max_length, truncation_side=side)
    assert rows_of(encoded) == rows
    [(whole, _)] = real_rows(tokenizer, [(query, passage)], max_length=512)
    assert encoded.cut is not None
    assert encoded.cut.tolist() == [len(whole) - len(rows[0][0])]


@settings(max_examples=100, deadline=None)
@given(
    query=TEXT,
    passages=st.lists(TEXT, min_size=2, max_size=4),
    max_length=st.integers(4, 40),
    side=st.sampled_from(SIDES),
)
def test_without_wordpiece_long_texts_are_joined_to_the_same_tokens(
    tokenizer: Tokenizer, query: str, passages: list[str], max_length: int, side: TruncationSide
) -> None:
    pairs = [("river", "city"), *((query, passage) for passage in passages)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WordPiece, "of", lambda tokenizer: None)
        patch.setattr(pair_tokenizer, "LONG_PAIR", -1)
        encoder = PairTokenizer(tokenizer, max_length=max_length, truncation_side=side)
        rows = rows_of(encoder.encode(pairs))
    assert rows == real_rows(tokenizer, pairs, max_length=max_length, truncation_side=side)


def test_without_wordpiece_a_long_query_and_a_long_passage_are_tokenized_once(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WordPiece, "of", lambda tokenizer: None)
    encoder = PairTokenizer(tokenizer, max_length=64)
    query = "where is the river " * 100
    passages = ["river " * 500, *(f"city {number}" for number in range(30))]
    pairs = [(query, passage) for passage in passages]
    tokenized: list[int] = []

    class Counting:
        """Notes the characters of the texts that the package tokenizers gets."""

        def encode_batch_fast(self, texts: list[Any], **options: bool) -> Any:
            tokenized.extend(len(each) if isinstance(each, str) else sum(map(len, each)) for each in texts)
            return tokenizer.encode_batch_fast(texts, **options)

    assert encoder._template  # made once, from a pair of words
    monkeypatch.setattr(encoder, "_tokenizer", Counting())
    encoded = encoder.encode(pairs)
    assert sum(tokenized) == len(query) + sum(map(len, passages))
    assert rows_of(encoded) == real_rows(tokenizer, pairs, max_length=64)


def test_without_a_post_processor_token_types_are_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    bare = Tokenizer(models.WordLevel({"city": 0, "river": 1, "[UNK]": 2}, unk_token="[UNK]"))
    bare.pre_tokenizer = pre_tokenizers.Whitespace()
    names = ["input_ids", "token_type_ids", "attention_mask"]
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=bare, model_input_names=names)
    expected = theirs(["city river"], ["river city city"])["token_type_ids"][0]
    ours = PairTokenizer(bare, max_length=8)
    for pairs in (
        ours.encode([("city river", "river city city")]),
        ours.encode_within([("city river", "river city city")], TextLimits(pair=8)),
    ):
        assert pairs.type_ids.tolist() == expected == [0, 0, 1, 1, 1]


def test_a_text_of_several_tokens_does_not_shift_the_template(tokenizer: Tokenizer) -> None:
    longer = Tokenizer.from_str(tokenizer.to_str())
    longer.normalizer = normalizers.Replace("a", "a a a")
    assert PairTemplate.of(longer) == PairTemplate.of(tokenizer)


@pytest.mark.parametrize("long_pair", [pair_tokenizer.LONG_PAIR, -1])
def test_a_tokenizer_that_puts_the_passage_first_only_tokenizes_pairs(
    tokenizer: Tokenizer, long_pair: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair_tokenizer, "LONG_PAIR", long_pair)
    turned = Tokenizer.from_str(tokenizer.to_str())
    turned.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", pair="[CLS] $B [SEP] $A:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    encoder, pairs = PairTokenizer(turned, max_length=8), [("the river", "city"), ("is", "a city is in the river")]
    assert rows_of(encoder.encode(pairs)) == real_rows(turned, pairs, max_length=8)
    with pytest.raises(BundleError, match="does not join two texts as `query passage`"):
        encoder.encode_within(pairs, TextLimits(passage=1))


@pytest.mark.parametrize("own", SIDES)
@pytest.mark.parametrize("asked", [None, *SIDES])
def test_limits_cut_both_texts_and_then_the_pair(
    tokenizer: Tokenizer, own: TruncationSide, asked: TruncationSide | None
) -> None:
    encoder = PairTokenizer(tokenizer, max_length=64, truncation_side=own)
    pairs = [
        ("where is the river", "a city is in the long green river"),
        ("river", "city"),
        ("river", "berlin is a city"),
    ]
    for limits, left, right, cut in (
        ({"query": 2, "passage": 4}, ("the river", "the long green river"), ("where is", "a city is in"), [6, 0, 0]),
        ({"pair": 9}, ("is the river", "long green river"), ("where is the", "a city is"), [6, 0, 0]),
        ({"pair": 8, "query": 1}, ("river", "the long green river"), ("where", "a city is in"), [7, 0, 0]),
    ):
        found = encoder.encode_within(pairs, TextLimits(side=asked, **limits))
        expected = encoder.encode([left if (asked or own) == "left" else right, *pairs[1:]])
        assert rows_of(found) == rows_of(expected)
        assert found.cut is not None
        assert found.cut.tolist() == cut


def test_numpys_integers_are_integers_and_texts_are_not(tokenizer: Tokenizer) -> None:
    assert PairTokenizer(tokenizer, max_length=np.int64(32)).max_length == 32
    for limit in ("128", 32.0, None, np.bool_(True)):
        with pytest.raises(
            OptionError, match=r"max_length=.*: give a whole number from 4: a pair has 3 special tokens"
        ):
            PairTokenizer(tokenizer, max_length=limit)  # type: ignore[arg-type]


def test_many_threads_may_encode_at_once(tokenizer: Tokenizer) -> None:
    encoder = PairTokenizer(tokenizer, max_length=32)
    pairs = [("where is the river", "city " * count) for count in range(40)]
    expected = encoder.encode(pairs).ids

    def encode(_: int) -> None:
        for _ in range(50):
            np.testing.assert_array_equal(encoder.encode(pairs).ids, expected)

    in_threads(encode, 8)


def test_a_limit_without_room_for_text_is_an_error(tokenizer: Tokenizer) -> None:
    for limit in (3, 0, -5, True):
        with pytest.raises(OptionError, match="whole number from 4"):
            PairTokenizer(tokenizer, max_length=limit)
