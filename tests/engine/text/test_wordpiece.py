"""WordPiece in C++ gives the ids of the package tokenizers for every text, and is left out where it might not."""

import json
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import cache
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from crossrt.engine.errors import InputError
from crossrt.engine.native_library import native_library
from crossrt.engine.text import wordpiece
from crossrt.engine.text.encoded_pairs import TruncationSide
from crossrt.engine.text.pair_tokenizer import PairTokenizer
from crossrt.engine.text.tokenizer import largest_id
from crossrt.engine.text.wordpiece import UNSUPPORTED, WordPiece
from tests.conftest import REPOSITORY, vocabulary
from tests.engine.text.real_tokenizer import SIDES, real_rows, rows_of

pytestmark = pytest.mark.skipif(
    native_library("native_wordpiece") is None, reason="this installation has no compiled tokenization"
)
DEMO = REPOSITORY / "demo/checkpoint/tokenizer.json"
MARK = "\U0001d165"  # a combining mark that stripping accents leaves, and NFD moves
PIECES = st.sampled_from(
    [
        *vocabulary(),
        *"The rivers CITY unhappiness Écrit naïve İstanbul ΣΊΣΥΦΟΣ Straße ﬁ Ǆ 東京 京a都 한국어 ไทย हिन्दी Việt".split(),
        *"[SEP] [MASK] [mask] [CLS SEP] ##ing ## 👩‍👩‍👧 🇩🇪 â€™ Ã© … “q”".split(),
        *"\u0dddx \u0344 \u1e9b\u0323 E\u0301crit Å\u0327\u0301".split(),
        *("x" * 99, "y" * 100, "ab" * 50 + "c", "é" * 100, "한" * 34),
        *("\0", "\t\n\r", "\u00a0", "\u2028", "\u200b", "\ufffd", MARK, f"{MARK}\u0323\u302e"),
    ]
)
TEXT = st.one_of(
    st.lists(PIECES, max_size=12).map(" ".join),
    st.lists(PIECES, max_size=12).map("".join),
    st.text(st.characters(max_codepoint=0x7F), max_size=80),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=80),
    st.text(st.characters(categories=("L", "M", "Zs")), max_size=80),
)
NORMALIZERS = [
    {"lowercase": lower, "strip_accents": strip, "handle_chinese_chars": chinese, "clean_text": clean}
    for lower, strip, chinese, clean in product((True, False), (None, True, False), (True, False), (True, False))
]

CASED = NORMALIZERS.index(NORMALIZERS[0] | {"lowercase": False})


def tokenizer_of(
    change: Callable[[dict[str, Any]], object] = lambda fields: None, **normalizer: bool | None
) -> Tokenizer:
    """Return the demo's tokenizer with letters of many scripts, another normalizer, and what `change` does to its JSON.

    It has as many entries as BERT's, and shows what became of a letter, where [UNK] would hide it.
    """
    fields = json.loads(DEMO.read_text(encoding="utf-8"))
    fields["normalizer"] |= normalizer
    entries = fields["model"]["vocab"]
    for code in range(0xA0, 0x3100):
        for token in (chr(code), f"##{chr(code)}"):
            entries.setdefault(token, len(entries))
    change(fields)
    return Tokenizer.from_str(json.dumps(fields))


@cache
def opened(index: int = 0) -> tuple[Tokenizer, WordPiece]:
    tokenizer = tokenizer_of(**NORMALIZERS[index])
    words = WordPiece.of(tokenizer)
    assert words is not None
    return tokenizer, words


def ids_of(words: WordPiece, texts: list[str], threads: int = 1) -> list[list[int]]:
    ids, starts, lengths = words.tokens(texts, threads)
    return [ids[start : start + length].tolist() for start, length in zip(starts, lengths, strict=True)]


def real_ids(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]


@settings(max_examples=500, deadline=None)
@given(texts=st.lists(TEXT, max_size=4), index=st.integers(0, len(NORMALIZERS) - 1))
def test_ids_are_the_real_tokenizers(texts: list[str], index: int) -> None:
    tokenizer, words = opened(index)
    assert ids_of(words, texts) == real_ids(tokenizer, texts)


@cache
def encoder_of(index: int, max_length: int, truncation_side: TruncationSide) -> PairTokenizer:
    return PairTokenizer(opened(index)[0], max_length=max_length, truncation_side=truncation_side)


@settings(max_examples=400, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.one_of(st.just("who"), TEXT), TEXT), max_size=6),
    max_length=st.sampled_from([4, 5, 6, 9, 12, 31, 64]),
    index=st.sampled_from([0, CASED]),
    side=st.sampled_from(SIDES),
)
def test_truncated_pairs_are_the_real_tokenizers(
    pairs: list[tuple[str, str]], max_length: int, index: int, side: TruncationSide
) -> None:
    tokenizer, _ = opened(index)
    encoder = encoder_of(index, max_length, side)
    assert encoder._words is not None
    encoded = encoder.encode(pairs)
    assert rows_of(encoded) == real_rows(tokenizer, pairs, max_length=max_length, truncation_side=side)
    assert (encoded.ids.dtype, encoded.type_ids.dtype, encoded.offsets.dtype) == (np.int32, np.uint8, np.int64)


@pytest.mark.parametrize("index", [0, CASED])
def test_every_character_of_the_basic_plane_is_the_real_tokenizers(index: int) -> None:
    tokenizer, words = opened(index)
    characters = [chr(code) for code in range(0x10000) if not 0xD800 <= code < 0xE000]
    for start in range(0, len(characters), 8192):
        texts = [f"{each}a{each}b {each}" for each in characters[start : start + 8192]]
        assert ids_of(words, texts) == real_ids(tokenizer, texts)


def test_ordinary_texts_are_not_left_to_the_real_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, words = opened()
    texts = [
        "The river's (long) name: 3.5 km — “naïve”?",
        "東京は日本の首都。",
        "한국어",
        "Việt Nam, हिन्दी, Ελλάδα, 👍🏽",
        "â€™ Ã©\0",
    ]
    expected = real_ids(tokenizer, texts)
    monkeypatch.setattr(wordpiece, "tokens_of", lambda tokenizer, texts: pytest.fail(f"asked for {texts}"))
    assert ids_of(words, texts) == expected


def test_marks_that_change_places_are_left_to_the_real_tokenizer() -> None:
    tokenizer, words = opened()
    assert words._becomes(MARK)[0] == UNSUPPORTED
    texts = ["one", f"a\u302e{MARK}", f"a{MARK}\u302e", "two", "[SEP]", "", "three"]
    assert ids_of(words, texts) == real_ids(tokenizer, texts)
    cased, others = opened(CASED)
    assert others._becomes(MARK)[0] != UNSUPPORTED, "nothing is decomposed there"
    assert ids_of(others, texts) == real_ids(cased, texts)


@pytest.mark.parametrize("most", [0, 1, 5, 100, 1000])
def test_words_that_are_too_long_are_unknown(most: int) -> None:
    tokenizer = tokenizer_of(lambda fields: fields["model"].update(max_input_chars_per_word=most))
    words = WordPiece.of(tokenizer)
    assert words is not None
    texts = [
        f"a {letter * length} b"
        for letter in ("x", "é", "한", "\U00010400", "京")
        for length in (1, max(most // 3, 1), most // 3 + 1, max(most - 1, 1), max(most, 1), most + 1, 3 * most + 7)
    ]
    assert ids_of(words, texts) == real_ids(tokenizer, texts)


def test_entries_that_json_must_escape_or_that_are_long_are_found() -> None:
    def change(fields: dict[str, Any]) -> None:
        entries = fields["model"]["vocab"]
        for token in ('"', "\\", "##\u0301", "é" * 40, "##" + "z" * 510, "東", "##東", "한"):
            entries.setdefault(token, len(entries))

    tokenizer = tokenizer_of(change, lowercase=False)
    words = WordPiece.of(tokenizer)
    assert words is not None
    texts = ['say "x" \\ é', "é" * 41, "é" * 39, "東東", "a" + "z" * 99, "한국"]
    assert ids_of(words, texts) == real_ids(tokenizer, texts)


def test_no_texts_and_empty_ones() -> None:
    tokenizer, words = opened()
    assert ids_of(words, []) == []
    assert ids_of(words, ["", "a", "", " \0\u0301"]) == [[], *real_ids(tokenizer, ["a"]), [], []]
    assert rows_of(PairTokenizer(tokenizer, max_length=8).encode([])) == []


def test_a_lone_surrogate_is_named_by_its_pair() -> None:
    encoder = PairTokenizer(tokenizer_of(), max_length=16)
    with pytest.raises(InputError, match="pair 1 holds a lone surrogate"):
        encoder.encode([("a", "b"), ("a", "x\ud800")])
    with pytest.raises(InputError, match="pair 0 holds a lone surrogate"):
        encoder.encode([("\udfff", "b")])


def test_threads_may_meet_new_characters_at_once() -> None:
    tokenizer = tokenizer_of()
    letters = [chr(code) for code in range(0xA0, 0x3000)]
    texts = ["".join(islice(letters, start, start + 40)) for start in range(0, len(letters), 40)]
    expected = real_ids(tokenizer, texts)
    for _ in range(5):
        words = WordPiece.of(tokenizer)
        assert words is not None
        started, failures = threading.Barrier(8), []

        def tokenize(number: int, words: WordPiece = words, started: threading.Barrier = started) -> None:
            started.wait()
            order = texts[number:] + texts[:number]
            if ids_of(words, order) != expected[number:] + expected[:number]:
                failures.append(number)  # noqa: B023

        threads = [threading.Thread(target=tokenize, args=(number % 3,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []


def test_a_list_is_tokenized_by_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """New characters, texts for the real tokenizer and empty ones among them."""
    monkeypatch.setattr(wordpiece, "BYTES_PER_THREAD", 1)
    chance = random.Random(0)
    odd = ["", "[SEP]", MARK, "東京", "한국어", "x" * 101, "plain words"]
    tokenizer = tokenizer_of()
    for size in (1, 15, 16, 17, 500):
        texts = [" ".join(chance.choices(odd, k=chance.randrange(4))) for _ in range(size)]
        for threads in (2, 7, 100):
            words = WordPiece.of(tokenizer)
            assert words is not None
            assert ids_of(words, texts, threads) == real_ids(tokenizer, texts), (size, threads)


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: fields.update(normalizer={"type": "Lowercase"}),
        lambda fields: fields.update(normalizer=None),
        lambda fields: fields.update(pre_tokenizer={"type": "Whitespace"}),
        lambda fields: fields.update(post_processor=None),
        lambda fields: fields["post_processor"]["pair"].append({"Sequence": {"id": "A", "type_id": 0}}),
        lambda fields: fields["post_processor"].update(pair=fields["post_processor"]["pair"][::-1]),
        lambda fields: fields["model"].update(continuing_subword_prefix="@@"),
        lambda fields: fields["model"].update(max_input_chars_per_word=1001),
        lambda fields: fields["model"].update(unk_token="[NONE]"),
        lambda fields: fields["model"]["vocab"].update({"x" * 513: 99_999}),
        lambda fields: fields["model"]["vocab"].update({"a\tb": 99_999}),
        lambda fields: fields["model"]["vocab"].update({"": 99_999}),
        lambda fields: fields["model"]["vocab"].update({"two tokens of one id": 7}),
        lambda fields: fields["added_tokens"][4].update(normalized=True),
        lambda fields: fields.update(
            truncation={"max_length": 8, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
        ),
        lambda fields: fields.update(
            model={"type": "WordLevel", "vocab": fields["model"]["vocab"], "unk_token": "[UNK]"}
        ),
    ],
)
def test_other_tokenizers_are_left_alone(change: Callable[[dict[str, Any]], object]) -> None:
    assert WordPiece.of(tokenizer_of(change)) is None


def test_without_the_library_the_package_tokenizers_does_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tokenizer = tokenizer_of()
    pairs = [("who", "the rivers of 京都 " * 9), ("[MASK]", ""), ("", "Écrit")]
    expected = real_rows(tokenizer, pairs, max_length=12)
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"of another machine")
    for file in (None, broken):
        monkeypatch.setattr(wordpiece, "native_library", lambda name, file=file: file)
        wordpiece._library.cache_clear()
        encoder = PairTokenizer(tokenizer, max_length=12)
        assert encoder._words is None
        assert rows_of(encoder.encode(pairs)) == expected
    monkeypatch.undo()
    wordpiece._library.cache_clear()
    encoder = PairTokenizer(tokenizer, max_length=12)
    assert encoder._words is not None
    assert rows_of(encoder.encode(pairs)) == expected


def test_all_of_msmarcos_lists_are_the_real_tokenizers(shared: Path) -> None:
    tokenizer = Tokenizer.from_file(str(shared / "models/minilm-l6-trained/tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    words = WordPiece.of(tokenizer)
    assert words is not None
    for name in ("passages.tsv", "queries.tsv"):
        lines = (shared / "data/msmarco-dl19" / name).read_text(encoding="utf-8").splitlines()
        texts = [line.partition("\t")[2] for line in lines]
        assert len(texts) > 40
        assert ids_of(words, texts) == real_ids(tokenizer, texts)


TOO_LONG = """
import ctypes, sys
import numpy as np
from crossrt.engine.text.wordpiece import IN_WORD, SPACE, _library

library = _library()
vocabulary = b'"[UNK]":0,"a":1'
words = library.crossrt_wordpiece_open(vocabulary, len(vocabulary), 2, 0, 100)
assert library.crossrt_wordpiece_add(words, ord("a"), IN_WORD, b"a" * 12, 12, 12)
assert library.crossrt_wordpiece_add(words, ord(" "), SPACE, b"", 0, 0)
text = b"a" * (2**31 // 12 + 100_000) + b" " + b"a" * 101
ends, ids, lengths = np.array([len(text)]), np.full(16, -1, dtype=np.int32), np.zeros(1, dtype=np.int64)
addresses = ends.ctypes.data, 0, 1, 1, ids.ctypes.data, lengths.ctypes.data
assert library.crossrt_wordpiece_tokens(words, text, *addresses) == 0
print(lengths[0], ids[:3].tolist())
"""


def test_a_word_of_more_characters_than_a_number_of_32_bits_counts_is_one_unknown_word() -> None:
    # Each byte stands for twelve characters, so that 0.2 GB are enough. In a process of its own, which it used to take down.
    done = subprocess.run([sys.executable, "-c", TOO_LONG], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "2 [0, 0, -1]\n"), done.stderr


def test_what_no_character_becomes_is_not_added() -> None:
    library = wordpiece._library()
    assert library is not None
    handle = library.crossrt_wordpiece_open(b'"[UNK]":0', 9, 1, 0, 100)
    for code, size, characters in ((0x110000, 1, 1), (97, 13, 12), (97, -1, 1), (97, 5, 1), (97, 1, -1), (97, 1, 256)):
        assert not library.crossrt_wordpiece_add(handle, code, wordpiece.IN_WORD, b"x" * 16, size, characters)
    assert not library.crossrt_wordpiece_knows(handle, 97)
    assert not library.crossrt_wordpiece_knows(handle, 2**32 - 1)
    assert not library.crossrt_wordpiece_add_token(handle, b"", 0)
    library.crossrt_wordpiece_close(handle)


def test_the_largest_id_is_known_of_every_kind_of_vocabulary() -> None:
    def with_ids(fields: dict[str, Any]) -> None:
        fields["model"]["vocab"]["late"] = 70_000
        fields["added_tokens"][-1]["id"] = fields["model"]["vocab"][fields["added_tokens"][-1]["content"]] = 80_000

    for change, largest in ((lambda fields: fields["model"]["vocab"].update(late=70_000), 70_000), (with_ids, 80_000)):
        tokenizer = tokenizer_of(change)
        words = WordPiece.of(tokenizer)
        assert words is not None
        assert words.largest_id == largest_id(tokenizer) == largest


def test_a_library_of_another_version_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wordpiece, "INTERFACE", wordpiece.INTERFACE + 1)
    wordpiece._library.cache_clear()
    assert WordPiece.of(tokenizer_of()) is None
    monkeypatch.undo()
    wordpiece._library.cache_clear()
    assert WordPiece.of(tokenizer_of()) is not None
