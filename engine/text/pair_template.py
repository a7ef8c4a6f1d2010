"""`PairTemplate`: joins the token ids of two texts in the way a tokenizer joins the texts."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tokenizers

from ..errors import BundleError
from .encoded_pairs import EncodedPairs, Spans, TruncationSide, ragged


@dataclass(frozen=True, slots=True, kw_only=True)
class PairTemplate:
    """The special tokens before, between and after two texts, such as [CLS], [SEP], [SEP], and the token types of both texts.

    `before`, `between` and `after` are tuples of (token id, token type).
    """

    before: tuple[tuple[int, int], ...]
    between: tuple[tuple[int, int], ...]
    after: tuple[tuple[int, int], ...]
    types: tuple[int, int]

    @classmethod
    def of(cls, tokenizer: tokenizers.Tokenizer) -> "PairTemplate":
        """Derive the template from one encoded pair of words.

        Raises BundleError for a tokenizer that does not keep the two texts in order, each in one piece.
        """
        encoding = tokenizer.encode("a", "b")
        sides = encoding.sequence_ids
        tokens = list(zip(encoding.ids, encoding.type_ids, strict=True))
        if (
            0 not in sides
            or 1 not in sides
            or [side for side in sides if side is not None] != sorted(side for side in sides if side is not None)
        ):
            raise BundleError("this tokenizer does not join two texts as `query passage`; score texts, not ids")
        first, second = sides.index(0), sides.index(1)
        first_end, second_end = first + sides.count(0), second + sides.count(1)
        return cls(
            before=tuple(tokens[:first]),
            between=tuple(tokens[first_end:second]),
            after=tuple(tokens[second_end:]),
            types=(encoding.type_ids[first], encoding.type_ids[second]),
        )

    @property
    def special_tokens(self) -> int:
        """Number of special tokens in a pair."""
        return len(self.before) + len(self.between) + len(self.after)

    def kept_lengths(
        self, queries: npt.NDArray[np.int64], passages: npt.NDArray[np.int64], *, max_length: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return how many tokens of each query and of each passage are kept, int64 [n] each. The inputs are their lengths.

        This is the rule `longest_first` of tokenizers: the longer text is truncated first. If both are longer than half of the
        room, each keeps half, and the longer one gets the odd token.
        """
        most = max_length - self.special_tokens
        swapped = queries > passages
        short = np.minimum(queries, passages)
        long = np.maximum(short, most - short)
        long = np.minimum(long, np.maximum(queries, passages))
        halved = short + long > most
        short = np.where(halved, most // 2, short)
        long = np.where(halved, most // 2 + most % 2, long)
        return np.where(swapped, long, short), np.where(swapped, short, long)

    def joined(
        self, queries: Spans, passages: Spans, *, max_length: int, truncation_side: TruncationSide = "right"
    ) -> EncodedPairs:
        """Join query i with passage i, for all i.

        The lengths in `queries` and `passages` are those before truncation. A text that is too long loses tokens at its end, or
        with `truncation_side="left"` at its beginning. Only the tokens that are kept are read.
        """
        query_ids, query_starts, query_lengths = queries
        ids, starts, lengths = passages
        query_kept, kept = self.kept_lengths(query_lengths, lengths, max_length=max_length)
        if truncation_side == "left":
            query_starts = query_starts + query_lengths - query_kept
            starts = starts + lengths - kept
        text_tokens = query_kept + kept
        sizes = text_tokens + self.special_tokens
        offsets = np.zeros(len(sizes) + 1, dtype=np.int64)
        np.cumsum(sizes, out=offsets[1:])
        joined = np.empty(offsets[-1], dtype=np.int32)
        type_ids = np.full(offsets[-1], self.types[1], dtype=np.uint8)
        firsts = offsets[:-1]
        for number, (token, kind) in enumerate(self.before):
            joined[firsts + number], type_ids[firsts + number] = token, kind
        at = firsts + len(self.before)
        target = ragged(at, query_kept)
        joined[target], type_ids[target] = query_ids[ragged(query_starts, query_kept)], self.types[0]
        at = at + query_kept
        for number, (token, kind) in enumerate(self.between):
            joined[at + number], type_ids[at + number] = token, kind
        at = at + len(self.between)
        joined[ragged(at, kept)] = ids[ragged(starts, kept)]
        at = at + kept
        for number, (token, kind) in enumerate(self.after):
            joined[at + number], type_ids[at + number] = token, kind
        cut = query_lengths + lengths - text_tokens
        return EncodedPairs(ids=joined, type_ids=type_ids, offsets=offsets, cut=cut)
