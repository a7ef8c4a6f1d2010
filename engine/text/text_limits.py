"""`TextLimits`: limits of one call that keep fewer tokens than its tokenizer would."""

from dataclasses import dataclass
from typing import get_args

import numpy as np

from ..errors import OptionError
from ..options import whole
from .encoded_pairs import Spans, TruncationSide


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLimits:
    """The most tokens of a `pair`, with its special tokens, and of its `query` and `passage`. None sets no limit.

    `side` is where texts lose tokens; None means the tokenizer's side. Raises OptionError for a number or a side that is not
    allowed.
    """

    pair: int | None = None
    query: int | None = None
    passage: int | None = None
    side: TruncationSide | None = None

    def __post_init__(self) -> None:
        for name, value, least in (("pair", self.pair, 1), ("query", self.query, 0), ("passage", self.passage, 0)):
            if value is not None:
                whole(f"the limit of tokens of a {name}", value, minimum=least, hint=", or None for no limit")
        if self.side not in (None, *get_args(TruncationSide)):
            raise OptionError(f"side={self.side!r} of limits: give right or left, or None for the tokenizer's side")

    def __bool__(self) -> bool:
        """Tell whether any field is set."""
        return not (self.pair is None and self.query is None and self.passage is None and self.side is None)


NO_LIMITS = TextLimits()


def clipped(spans: Spans, max_tokens: int | None, side: TruncationSide) -> Spans:
    """Cut each span to at most `max_tokens` tokens. It loses the others on `side`."""
    ids, starts, lengths = spans
    if max_tokens is None:
        return spans
    kept = np.minimum(lengths, min(max_tokens, int(lengths.max(initial=0))))
    return ids, starts + (lengths - kept) if side == "left" else starts, kept
