"""`EncodedPairs`: the token ids of query-passage pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Spans: TypeAlias = tuple[npt.NDArray[np.integer], npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""Texts as token ids: an array of ids, and where each text starts in it and how many tokens it has, int64 [n]."""
TruncationSide: TypeAlias = Literal["right", "left"]
"""Where a text that is too long loses tokens: at its end, or at its beginning."""


class Prepared(Protocol):
    """Passages that were tokenized before, by their ids: a `PassageStore`."""

    path: Path

    def tokens(self, names: Sequence[str]) -> Spans:
        """Return the tokens of these passages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPairs:
    """Token ids of n query-passage pairs, ragged: what tokenization gives, before any padding.

    `ids` int32 [tokens] and `type_ids` uint8 [tokens] hold all pairs one after the other; pair i is
    `ids[offsets[i]:offsets[i + 1]]`, with `offsets` int64 [n + 1].
    """

    ids: npt.NDArray[np.int32]
    type_ids: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each pair, int64 [n]."""
        return np.diff(self.offsets)


def ragged(starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return `starts[i], starts[i] + 1, ...`, `lengths[i]` of them, for every i in turn."""
    skipped = np.cumsum(lengths) - lengths
    return np.repeat(starts - skipped, lengths) + np.arange(lengths.sum())
