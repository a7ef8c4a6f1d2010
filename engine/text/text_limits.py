"""`TextLimits`: how many tokens one call keeps, where that is less than its tokenizer would."""

from dataclasses import dataclass

import numpy as np

from .encoded_pairs import Spans, TruncationSide


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLimits:
    """Most tokens of a `pair` with its special tokens, and of its `query` and `passage` alone; None means the tokenizer's own.

    `side` is where texts lose tokens; None means the tokenizer's own.
    """

    pair: int | None = None
    query: int | None = None
    passage: int | None = None
    side: TruncationSide | None = None

    def __bool__(self) -> bool:
        """Tell whether anything is limited."""
        return not (self.pair is None and self.query is None and self.passage is None and self.side is None)


NO_LIMITS = TextLimits()


def clipped(spans: Spans, most: int | None, side: TruncationSide) -> Spans:
    """Return spans of at most `most` tokens each, which lose the others on `side`."""
    ids, starts, lengths = spans
    if most is None:
        return spans
    kept = np.minimum(lengths, most)
    return ids, starts + (lengths - kept) if side == "left" else starts, kept
