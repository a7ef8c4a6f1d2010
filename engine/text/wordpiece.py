"""`WordPiece`: BERT's tokenization in C++ (engine/kernels/native/wordpiece.cpp), with the same ids as the package tokenizers.

For each character, the package tokenizers is asked once what it is normalized to. Words and their pieces are found without it.
"""

import ctypes
import json
import weakref
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import tokenizers

from ..native_library import load_library, native_library
from .encoded_pairs import Spans

INTERFACE = 1
"""The version of the library's interface. Increase it here and in native/wordpiece.cpp when a function's parameters change."""
IN_WORD, ALONE, SPACE, UNSUPPORTED = range(4)
"""The role of a character in a text (`CharacterKind` in C++)."""
MAX_WORD_CHARACTERS = 1000
"""Largest word length, in characters, that a tokenizer may allow (the same name in C++)."""
MAX_NORMALIZED_CHARACTERS = 3
"""Most characters that one character is normalized to (12 bytes, `MAX_NORMALIZED_BYTES` in C++). A Hangul syllable has three."""
UNKNOWN_CHARACTER = -2
"""What C++ returns as the length of a text with a character that is not in the table yet (the same name in C++)."""
MAX_THREADS = 8
"""Most threads that tokenize one list of texts."""
BYTES_PER_THREAD = 16_384
"""Bytes of text for which one more thread is worth starting: 0.15 ms of work."""
MARKS = "\U0001d16d", "\u1b44"
"""Two combining marks that NFD reorders, and that are not stripped as accents are."""


@cache
def _library() -> ctypes.CDLL | None:
    file = native_library("native_wordpiece")
    return None if file is None else load_library(file, "crossrt_wordpiece_interface", INTERFACE)


class WordPiece:
    """The normalization, words and vocabulary of a BERT tokenizer. `PairTemplate` adds the special tokens. Created by `of`.

    Any number of threads may call `tokens` at once.
    """

    def __init__(
        self, tokenizer: tokenizers.Tokenizer, library: ctypes.CDLL, handle: int, added: Sequence[Mapping[str, Any]]
    ) -> None:
        """`handle` is an opened vocabulary, `added` the `added_tokens` of the JSON. Raises MemoryError."""
        self._library, self._handle, self._tokenizer = library, handle, tokenizer
        weakref.finalize(
            self, library.crossrt_wordpiece_close, handle
        ).atexit = False  # other threads may still tokenize
        self._normalized = tokenizer.normalizer.normalize_str
        self._words = tokenizer.pre_tokenizer.pre_tokenize_str
        self.largest_id = max([library.crossrt_wordpiece_largest_id(handle), *(token["id"] for token in added)])
        """The largest token id, added tokens included."""
        for token in (each["content"].encode() for each in added):
            _check(library.crossrt_wordpiece_add_token(handle, token, len(token)))
        for code in range(128):
            self._learn(chr(code))

    @classmethod
    def of(cls, tokenizer: tokenizers.Tokenizer) -> "WordPiece | None":
        """Read a tokenizer without truncation and padding. The tokenizer must not be changed afterwards.

        Returns None for a tokenizer of another kind than BERT's, and if the compiled library is missing.
        """
        library = _library()
        if library is None:
            return None
        # The vocabulary is nearly all of the JSON and its last field. C++ parses it; Python would take 7 ms.
        head, opening, vocabulary = tokenizer.to_str().partition('"vocab":{')
        closing = "}}}"
        try:
            fields = json.loads(head + opening + closing)
        except ValueError:
            return None
        if not vocabulary.endswith(closing) or not _is_of_bert(fields):
            return None
        model = fields["model"]
        unknown = tokenizer.model.token_to_id(model["unk_token"])
        if unknown is None:
            return None
        entries = vocabulary.removesuffix(closing).encode()
        handle = library.crossrt_wordpiece_open(
            *(entries, len(entries), tokenizer.get_vocab_size(with_added_tokens=False)),
            *(unknown, model["max_input_chars_per_word"]),
        )
        return cls(tokenizer, library, handle, fields["added_tokens"]) if handle else None

    def tokens(self, texts: Sequence[str], threads: int = 1) -> Spans:
        """Tokenize texts without special tokens on at most `threads` threads. Raises UnicodeEncodeError for lone surrogates."""
        encoded = [text.encode() for text in texts]
        joined = b"".join(encoded)
        count = len(encoded)
        ends = np.cumsum(np.fromiter(map(len, encoded), dtype=np.int64, count=count))
        starts = np.concatenate(([0], ends[:-1])) if count else ends
        ids, lengths = np.empty(len(joined), dtype=np.int32), np.empty(count, dtype=np.int64)
        threads = min(threads, MAX_THREADS, 1 + len(joined) // BYTES_PER_THREAD)

        def tokenize(begin: int, end: int, threads: int) -> int:
            addresses = ends.ctypes.data, begin, end, threads, ids.ctypes.data, lengths.ctypes.data
            return int(self._library.crossrt_wordpiece_tokens(self._handle, joined, *addresses))

        if tokenize(0, count, threads):
            for row in np.flatnonzero(lengths == UNKNOWN_CHARACTER).tolist():
                for character in set(texts[row]):
                    if not self._library.crossrt_wordpiece_knows(self._handle, ord(character)):
                        self._learn(character)
                tokenize(row, row + 1, 1)
        unsupported = np.flatnonzero(lengths < 0)
        if len(unsupported):
            left = [texts[index] for index in unsupported.tolist()]
            more, more_starts, lengths[unsupported] = tokens_of(self._tokenizer, left)
            starts[unsupported] = len(ids) + more_starts
            ids = np.concatenate([ids, more])
        return ids, starts, lengths

    def _learn(self, character: str) -> None:
        kind, text = self._becomes(character)
        encoded = text.encode()
        added = self._library.crossrt_wordpiece_add(
            self._handle, ord(character), kind, encoded, len(encoded), len(text)
        )
        _check(added)

    def _becomes(self, character: str) -> tuple[int, str]:
        """Return the kind and the normalized text of a character; `UNSUPPORTED` if they may depend on its neighbours."""
        text: str = self._normalized(character)
        # A combining mark that is not stripped depends on its neighbours, because NFD may reorder them.
        first, last = MARKS
        if text and self._normalized(first + character + last) != self._normalized(first) + text + self._normalized(
            last
        ):
            return UNSUPPORTED, ""
        kinds = [self._kind(each) for each in text]
        words = [each for each, kind in zip(text, kinds, strict=True) if kind != SPACE]
        # No text has more tokens than bytes, so this bounds what C++ writes.
        if UNSUPPORTED in kinds or len(words) > min(MAX_NORMALIZED_CHARACTERS, len(character.encode())):
            return UNSUPPORTED, ""
        if all(kind == IN_WORD for kind in kinds):
            return IN_WORD, text
        if not words:
            return SPACE, ""
        # Punctuation, or a character that the normalizer puts spaces around, as it does with Chinese characters.
        if len(words) == 1 and (ALONE in kinds or (kinds[0] == kinds[-1] == SPACE)):
            return ALONE, words[0]
        return UNSUPPORTED, ""

    def _kind(self, character: str) -> int:
        """Return the kind of a normalized character, by how the tokenizer splits it between two letters."""
        words = [word for word, _ in self._words(f"a{character}a")]
        if words == [f"a{character}a"]:
            return IN_WORD
        if words == ["a", character, "a"]:
            return ALONE
        return SPACE if words == ["a", "a"] else UNSUPPORTED


def tokens_of(tokenizer: tokenizers.Tokenizer, texts: Sequence[str]) -> Spans:
    """Tokenize texts without special tokens with the package tokenizers. `tokenizer` must have no truncation."""
    encodings = [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]
    lengths = np.fromiter(map(len, encodings), dtype=np.int64, count=len(encodings))
    ids = np.fromiter((token for each in encodings for token in each), dtype=np.int32, count=int(lengths.sum()))
    return ids, np.cumsum(lengths) - lengths, lengths


def _is_of_bert(fields: dict[str, Any]) -> bool:
    """Tell whether the library supports a `tokenizer.json`: every field that influences tokens must be checked here."""
    try:
        template = fields["post_processor"]
        sides = (
            [side["Sequence"]["id"] for side in template["pair"] if "Sequence" in side]
            if template["type"] == "TemplateProcessing"
            else []
        )
        model = fields["model"]
        return bool(
            fields["truncation"] is fields["padding"] is None
            and fields["normalizer"]["type"] == "BertNormalizer"
            and fields["pre_tokenizer"]["type"] == "BertPreTokenizer"
            and (template["type"] == "BertProcessing" or sides == ["A", "B"])
            and model["type"] == "WordPiece"
            and model["continuing_subword_prefix"] == "##"
            and 0 <= model["max_input_chars_per_word"] <= MAX_WORD_CHARACTERS
            and model.keys() <= {"type", "unk_token", "continuing_subword_prefix", "max_input_chars_per_word", "vocab"}
            # Added tokens are found before normalization; a text with one is left to the package tokenizers.
            and all(token["normalized"] is False and token["content"] for token in fields["added_tokens"])
        )
    except (KeyError, TypeError):
        return False


def _check(added: bool) -> None:
    if not added:
        raise MemoryError("there is not enough memory for the tokenizer's characters")
