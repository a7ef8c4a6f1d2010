"""The kinds of items of a request, and how they become tokens: pairs of texts, tokenized pairs, or ids of prepared passages."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from .encoded_pairs import EncodedPairs, Prepared
from .pair_tokenizer import PairTokenizer
from .text_limits import NO_LIMITS, TextLimits
from .windows import WindowedPairs, Windows

Item = TypeVar("Item", contravariant=True)
TOKEN_CHARACTERS = 4
"""Characters that a token counts as in `PairSource.size`, which bounds requests by characters."""


class PairSource(Protocol[Item]):
    """Turns the items of a request into tokens."""

    def encode(self, items: Sequence[Item]) -> EncodedPairs:
        """Return a pair of token sequences for each item."""

    def encode_windows(self, items: Sequence[Item], windows: Windows) -> WindowedPairs:
        """Return the windows of each item."""

    def size(self, item: Item, *, whole: bool) -> int:
        """Return about how many characters of an item are tokenized: all of it if `whole`, or up to the truncation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPairs:
    """Items are pairs of texts.

    `prompt` is put before each query; None means the tokenizer's own. `limits` keeps fewer tokens.
    """

    tokenizer: PairTokenizer
    prompt: str | None = None
    limits: TextLimits = NO_LIMITS

    def encode(self, pairs: Sequence[tuple[str, str]]) -> EncodedPairs:
        """See `PairTokenizer.encode` and `PairTokenizer.encode_within`."""
        if self.limits:
            return self.tokenizer.encode_within(pairs, self.limits, prompt=self.prompt)
        return self.tokenizer.encode(pairs, prompt=self.prompt)

    def encode_windows(self, pairs: Sequence[tuple[str, str]], windows: Windows) -> WindowedPairs:
        """See `PairTokenizer.encode_windows`."""
        return self.tokenizer.encode_windows(pairs, windows, prompt=self.prompt, limits=self.limits)

    def size(self, pair: tuple[str, str], *, whole: bool) -> int:
        """See `PairSource.size`. All characters count, since a text is tokenized before it is truncated."""
        return len(pair[0]) + len(pair[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizedPairs:
    """Items are row numbers of `pairs`, which cannot be cut into windows."""

    pairs: EncodedPairs

    def encode(self, numbers: Sequence[int]) -> EncodedPairs:
        """Return the pairs with these row numbers."""
        return self.pairs.select(np.array(numbers, dtype=np.int64))

    def encode_windows(self, numbers: Sequence[int], windows: Windows) -> WindowedPairs:
        """Raise NotImplementedError: truncated passages cannot be cut into windows."""
        raise NotImplementedError

    def size(self, number: int, *, whole: bool) -> int:
        """See `PairSource.size`."""
        return TOKEN_CHARACTERS * int(self.pairs.offsets[number + 1] - self.pairs.offsets[number])


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPassages:
    """Items are ids of passages of `store`, all for one `query`. `prompt` is as in `TextPairs`."""

    tokenizer: PairTokenizer
    store: Prepared
    query: str
    prompt: str | None = None

    def encode(self, passage_ids: Sequence[str]) -> EncodedPairs:
        """See `PairTokenizer.encode_from`."""
        return self.tokenizer.encode_from(self.store, self.query, passage_ids, prompt=self.prompt)

    def encode_windows(self, passage_ids: Sequence[str], windows: Windows) -> WindowedPairs:
        """See `PairTokenizer.encode_windows_from`."""
        return self.tokenizer.encode_windows_from(self.store, self.query, passage_ids, windows, prompt=self.prompt)

    def size(self, passage_id: str, *, whole: bool) -> int:
        """See `PairSource.size`. Looking up a passage takes 30 us, little compared with computing the windows of a long one."""
        tokens = int(self.store.held([passage_id])[2][0]) if whole else self.tokenizer.max_length
        return TOKEN_CHARACTERS * tokens
