"""Pairs tokenized by the package tokenizers: the reference that faster implementations are compared with."""

from collections.abc import Sequence
from functools import cache

from tokenizers import Tokenizer

from crossrt.engine.text.encoded_pairs import EncodedPairs, TruncationSide

Rows = list[tuple[list[int], list[int]]]
"""Ids and token types of each pair."""


SIDES: tuple[TruncationSide, ...] = ("right", "left")
"""The sides on which a text that is too long may lose tokens."""


def real_rows(
    tokenizer: Tokenizer,
    pairs: Sequence[tuple[str, str]],
    *,
    max_length: int,
    truncation_side: TruncationSide = "right",
) -> Rows:
    encodings = _truncating(tokenizer, max_length, truncation_side).encode_batch(list(pairs))
    return [(encoding.ids, encoding.type_ids) for encoding in encodings]


@cache
def _truncating(tokenizer: Tokenizer, max_length: int, truncation_side: TruncationSide) -> Tokenizer:
    own = Tokenizer.from_str(tokenizer.to_str())
    own.no_padding()
    own.enable_truncation(max_length=max_length, strategy="longest_first", direction=truncation_side)
    return own


def rows_of(encoded: EncodedPairs) -> Rows:
    parts = [slice(*encoded.offsets[index : index + 2].tolist()) for index in range(len(encoded))]
    return [(encoded.ids[part].tolist(), encoded.type_ids[part].tolist()) for part in parts]
