"""From text to token ids: `PairEncoder` tokenizes query-passage pairs."""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import tokenizers

from .errors import BundleError, InputError, OptionError
from .passages import PassageStore
from .template import EncodedPairs, PairTemplate


class PairEncoder:
    """A tokenizer with its truncation set once, so that any number of threads may encode with it.

    Pairs longer than `max_length` tokens lose tokens from the longer side first, as transformers' `longest_first` does.
    The tokenizer's own truncation and padding, which published files sometimes carry, are discarded.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, *, max_length: int) -> None:
        special = tokenizer.num_special_tokens_to_add(is_pair=True)
        if not isinstance(max_length, int) or isinstance(max_length, bool) or max_length <= special:
            raise OptionError(
                f"max_length={max_length!r} leaves no room for text; a pair has {special} special tokens, so give a "
                f"whole number of at least {special + 1}"
            )
        self.max_length = max_length
        # A copy, because truncation is a property of the tokenizer: changing it while another thread encodes raises
        # "Already borrowed", and the caller's tokenizer is the caller's.
        self._tokenizer = tokenizers.Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length=max_length, strategy="longest_first")

    @classmethod
    def from_file(cls, path: Path, *, max_length: int) -> "PairEncoder":
        """Read `tokenizer.json`. Raises BundleError, naming the file, when it is no tokenizer."""
        try:
            text = path.read_text(encoding="utf-8")
            tokenizer = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # tokenizers raises bare Exception
            raise BundleError(
                f"{path} is not a tokenizer that can be read ({error}); export the bundle again"
            ) from error
        return cls(tokenizer, max_length=max_length)

    def encode(self, pairs: Sequence[tuple[str, str]]) -> EncodedPairs:
        """Tokenize pairs of texts. Safe from several threads at once."""
        try:
            encodings = self._tokenizer.encode_batch_fast(list(pairs), add_special_tokens=True)
        except (UnicodeEncodeError, TypeError) as error:  # lone surrogates, from broken JSON or surrogateescape
            index = next((i for i, pair in enumerate(pairs) if not all(map(_is_text, pair))), None)
            if index is None:
                raise
            raise InputError(
                f"pair {index} holds a lone surrogate, which is no valid Unicode; decode it with errors='replace' first"
            ) from error
        offsets = np.zeros(len(encodings) + 1, dtype=np.int64)
        np.cumsum([len(encoding) for encoding in encodings], out=offsets[1:])
        ids = np.empty(offsets[-1], dtype=np.int32)
        type_ids = np.empty(offsets[-1], dtype=np.uint8)
        for encoding, start, stop in zip(encodings, offsets[:-1], offsets[1:], strict=True):
            ids[start:stop] = encoding.ids
            type_ids[start:stop] = encoding.type_ids
        return EncodedPairs(ids=ids, type_ids=type_ids, offsets=offsets)

    def encode_from(self, store: PassageStore, query: str, passage_ids: Sequence[str]) -> EncodedPairs:
        """Tokenize a query and join it with prepared passages: token for token what `encode` gives for their texts.

        Raises StoreError for a passage that the store lacks, and InputError for a query that is no valid Unicode.
        """
        untruncated, template = self._joining
        if not _is_text(query):
            raise InputError(
                "the query holds a lone surrogate, no valid Unicode; decode it with errors='replace' first"
            )
        tokens = np.array(untruncated.encode(query, add_special_tokens=False).ids, dtype=np.int32)
        ids, starts, lengths = store.tokens(passage_ids)
        return template.joined(tokens, ids, starts, lengths, max_length=self.max_length)

    @cached_property
    def _joining(self) -> tuple[tokenizers.Tokenizer, PairTemplate]:
        # Made when first needed: most users bring texts, and this costs as much as reading the tokenizer.
        untruncated = tokenizers.Tokenizer.from_str(self._tokenizer.to_str())
        untruncated.no_truncation()
        return untruncated, PairTemplate.of(untruncated)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def without_truncation_and_padding(tokenizer_json: str) -> str:
    """Return the same `tokenizer.json` with its own truncation and padding removed; compact JSON."""
    fields = json.loads(tokenizer_json)
    fields["truncation"] = fields["padding"] = None
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
