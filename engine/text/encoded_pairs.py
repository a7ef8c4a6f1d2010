"""`EncodedPairs`: the token ids of query-passage pairs, and the types that tokenization shares."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import InputError

Spans: TypeAlias = tuple[npt.NDArray[np.integer], npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""Token ids of n texts: an array of ids; where each text starts in it, int64 [n]; how many tokens each has, int64 [n]."""
TruncationSide: TypeAlias = Literal["right", "left"]
"""Where a text that is too long loses tokens: `right` is its end, `left` its beginning."""


class Prepared(Protocol):
    """Passages that were tokenized in advance. `PassageStore` implements it."""

    path: Path

    def tokens(self, names: Sequence[str]) -> Spans:
        """Return the token ids of the passages with these ids. See `PassageStore.tokens`."""

    def check_whole(self, names: Sequence[str]) -> None:
        """Raise StoreError if the store holds only a part of one of these passages."""

    def held(self, names: Sequence[str]) -> Spans:
        """Return the tokens of these passages that the store holds. The lengths count only these tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPairs:
    """Token ids of n query-passage pairs, with special tokens and without padding.

    `ids` int32 [tokens] and `type_ids` uint8 [tokens] hold all pairs one after the other; pair i is
    `ids[offsets[i]:offsets[i + 1]]`, with `offsets` int64 [n + 1]. `cut` int64 [n] counts the tokens that each pair lost
    to truncation; None means that no pair lost any. Raises InputError for arrays of other types or with gaps.
    """

    ids: npt.NDArray[np.int32]
    type_ids: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]
    cut: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        # The native kernels get the addresses of the arrays. NumPy makes int64 of int32 in many operations.
        for name, kind in (("ids", np.int32), ("type_ids", np.uint8), ("offsets", np.int64)):
            array = getattr(self, name)
            if not isinstance(array, np.ndarray) or array.dtype != kind or not array.flags.c_contiguous:
                found = getattr(array, "dtype", type(array).__name__)
                raise InputError(
                    f"{name} of encoded pairs is {found}, and a contiguous array of {kind.__name__} is expected: convert it with "
                    f"np.ascontiguousarray({name}, dtype=np.{kind.__name__})"
                )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @staticmethod
    def joined(parts: "Sequence[EncodedPairs]") -> "EncodedPairs":
        """Return the pairs of all parts, in order. There must be at least one part."""
        if len(parts) == 1:
            return parts[0]
        cuts = [np.zeros(len(part), dtype=np.int64) if part.cut is None else part.cut for part in parts]
        return EncodedPairs(
            ids=np.concatenate([part.ids for part in parts]),
            type_ids=np.concatenate([part.type_ids for part in parts]),
            offsets=np.concatenate(([0], np.cumsum(np.concatenate([part.lengths for part in parts])))),
            cut=None if all(part.cut is None for part in parts) else np.concatenate(cuts),
        )

    def select(self, rows: npt.NDArray[np.int64]) -> "EncodedPairs":
        """Return these pairs, in this order."""
        lengths = self.lengths[rows]
        source = ragged(self.offsets[rows], lengths)
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        cut = None if self.cut is None else self.cut[rows]
        return EncodedPairs(ids=self.ids[source], type_ids=self.type_ids[source], offsets=offsets, cut=cut)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each pair, int64 [n]."""
        return np.diff(self.offsets)


def ragged(starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the concatenation of `arange(starts[i], starts[i] + lengths[i])` for every i, int64 [sum of lengths]."""
    skipped = np.cumsum(lengths) - lengths
    return np.repeat(starts - skipped, lengths) + np.arange(lengths.sum())
