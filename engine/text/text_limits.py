"""`TextLimits`: limits of one call that keep fewer tokens than its tokenizer would."""

from dataclasses import dataclass

import numpy as np

from .encoded_pairs import Spans, TruncationSide


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLimits:
    """The most tokens of a `pair`, with its special tokens, and of its `query` and `passage`. None sets no limit.

    `side` is where texts lose tokens; None means the tokenizer's side.
    """

    pair: int | None = None
    query: int | None = None
    passage: int | None = None
    side: TruncationSide | None = None

    def __bool__(self) -> bool:
        """Tell whether any field is set."""
        return not (self.pair is None and self.query is None and self.passage is None and self.side is None)


NO_LIMITS = TextLimits()


def clipped(spans: Spans, most: int | None, side: TruncationSide) -> Spans:
    """Cut each span to at most `most` tokens. It loses the others on `side`."""
    ids, starts, lengths = spans
    if most is None:
        return spans
    kept = np.minimum(lengths, most)
    return ids, starts + (lengths - kept) if side == "left" else starts, kept
