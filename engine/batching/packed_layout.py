"""`PackedLayout`: pairs stored one after the other without padding, for the native kernels on a GPU."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ..bundle.profiles import Shape
from ..errors import InputError
from ..text.encoded_pairs import EncodedPairs
from .layout import Arrays, Rows

TILE = 64
"""Query tokens that one block of the attention kernel computes, all of one pair."""
STEP = 64
"""Batches of up to 1,024 tokens are rounded up to a multiple of this. Larger ones are rounded up to a sixteenth of the next power
of two. That adds 4 % of tokens on average, and keeps the number of shapes small."""


@dataclass(frozen=True, slots=True)
class PackedLayout:
    """See `BatchLayout`. A shape is the rows of a batch and the tokens of all its rows.

    `max_tokens` and `max_rows` bound a batch, `max_length` a pair; it is at most `max_tokens`. `vocab` and `types` are the
    model's numbers of token ids and types; `fill` checks them, because the kernels do not and would read out of bounds.
    `padding` is as in `ModelDims`.
    """

    max_tokens: int
    max_rows: int
    max_length: int
    vocab: int
    types: int
    padding: int | None = None

    @property
    def max_shapes(self) -> Sequence[Shape]:
        """See `BatchLayout.max_shapes`."""
        return [(self.max_rows, self.max_tokens)]

    def split(self, lengths: npt.NDArray[np.int64], *, batch_cost: int, shares: int = 1) -> list[Rows]:
        """Cut pairs, in their order, into batches of about equally many tokens. `batch_cost` has no effect."""
        ends = np.cumsum(lengths)
        pairs, total = len(ends), int(lengths.sum())
        # A border falls into a pair and moves to one of its ends, so a batch needs room for one more pair. Long pairs leave so
        # little room that the number of batches would exceed that of the pairs.
        by_tokens = -(-total // max(1, self.max_tokens - self.max_length))
        count = min(pairs, max(by_tokens, -(-pairs // self.max_rows), shares))
        borders = [0]
        for number in range(1, count):
            wanted = total * number / count
            border = int(np.searchsorted(ends, wanted))
            if border < pairs and ends[border] - wanted < wanted - (ends[border - 1] if border else 0):
                border += 1  # the end of the pair is nearer than its beginning
            borders.append(min(max(border, borders[-1] + 1), pairs - (count - number)))
        parts = []
        for begin, end in pairwise([*borders, pairs]):  # very many short pairs exceed most_rows and are cut once more
            parts += [np.arange(at, min(end, at + self.max_rows)) for at in range(begin, end, self.max_rows)]
        return parts

    def shape(self, lengths: npt.NDArray[np.int64]) -> Shape:
        """See `BatchLayout.shape`."""
        tokens = int(lengths.sum())
        step = max(STEP, (1 << (tokens - 1).bit_length()) // 16)
        rows = 1 << (len(lengths) - 1).bit_length()
        return min(rows, self.max_rows), min(-(-tokens // step) * step, self.max_tokens)

    def tokens(self, shape: Shape) -> int:
        """See `BatchLayout.tokens`."""
        return shape[1]

    def arrays(self, shape: Shape) -> Arrays:
        """See `BatchLayout.arrays`.

        `ids` and `places` have an entry for each token; a place is the position, with the token type in its upper 16 bits.
        `begins` and `lengths` have an entry for each row. A tile has three numbers: the first token of its pair, the pair's
        length, and the position of the tile's first query token in the pair.
        """
        rows, tokens = shape
        kind = np.dtype(np.int32)
        return {
            "ids": (kind, (tokens,)),
            "places": (kind, (tokens,)),
            "begins": (kind, (rows,)),
            "lengths": (kind, (rows,)),
            "tiles": (kind, (self.tiles(shape), 3)),
        }

    def tiles(self, shape: Shape) -> int:
        """Return the largest number of attention tiles that a batch of this shape can have."""
        rows, tokens = shape
        return tokens // TILE + rows

    def fill(self, arrays: Mapping[str, npt.NDArray[Any]], pairs: EncodedPairs, rows: Rows) -> None:
        """See `BatchLayout.fill`. `rows` must be consecutive.

        Raises InputError for a pair without tokens, and for ids or types that the model does not have.
        """
        offsets = pairs.offsets[rows[0] : rows[-1] + 2]
        ids, types = (values[offsets[0] : offsets[-1]] for values in (pairs.ids, pairs.type_ids))
        begins = (offsets[:-1] - offsets[0]).astype(np.int32)
        lengths = np.diff(offsets).astype(np.int32)
        # A model without token types ignores those that the tokenizer gives.
        known = (
            lengths.min() > 0
            and ids.min() >= 0
            and ids.max() < self.vocab
            and not (self.types and types.max() >= self.types)
        )
        if not known:
            raise InputError(
                "the model cannot score this batch: it has a pair without tokens, or token ids or types that the model does not "
                "have"
            )
        count = len(ids)
        arrays["ids"][:count] = ids
        arrays["ids"][count:] = 0
        places = arrays["places"]
        if self.padding is None:
            places[:count] = np.arange(count, dtype=np.int32)
            places[:count] -= np.repeat(begins, lengths)
        else:  # as in RoBERTa: padding tokens have position 0, the others count from 1
            counted = ids != self.padding
            before = np.concatenate(([0], np.cumsum(counted, dtype=np.int32)))
            places[:count] = (before[1:] - np.repeat(before[begins], lengths)) * counted
        if self.types:
            places[:count] |= types.astype(np.int32) << 16
        places[count:] = 0
        for name, values in (("begins", begins), ("lengths", lengths)):
            arrays[name][: len(rows)] = values
            arrays[name][len(rows) :] = 0  # rows added by rounding up
        of_row = -(-lengths // TILE)
        before = np.cumsum(of_row) - of_row
        tiles, used = arrays["tiles"], int(of_row.sum())
        tiles[:used, 0] = np.repeat(begins, of_row)
        tiles[:used, 1] = np.repeat(lengths, of_row)
        tiles[:used, 2] = TILE * (np.arange(used, dtype=np.int32) - np.repeat(before, of_row))
        tiles[used:] = 0
