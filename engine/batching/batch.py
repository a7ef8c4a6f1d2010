"""`Batch`: padded arrays, the input of a model."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import ShapeError
from ..text.encoded_pairs import EncodedPairs, ragged


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Padded arrays, the input of a model, and which `rows` of the request they hold.

    `input_ids`, `attention_mask` and `token_type_ids` are int64 [batch, seq]; `rows` is int64 [batch].
    """

    input_ids: npt.NDArray[np.int64]
    attention_mask: npt.NDArray[np.int64]
    token_type_ids: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]

    @classmethod
    def padded(cls, pairs: EncodedPairs, rows: npt.NDArray[np.int64], pad_id: int, width: int | None = None) -> "Batch":
        """Pad these rows of a request, int64 [batch], to `width` tokens, by default to the longest of them."""
        real, source = unpadded_indices(pairs, rows, int(pairs.lengths[rows].max()) if width is None else width)
        input_ids = np.full(real.shape, pad_id, dtype=np.int64)
        input_ids[real] = pairs.ids[source]
        token_type_ids = np.zeros(real.shape, dtype=np.int64)
        token_type_ids[real] = pairs.type_ids[source]
        return cls(input_ids=input_ids, attention_mask=real.astype(np.int64), token_type_ids=token_type_ids, rows=rows)

    def pairs(self) -> EncodedPairs:
        """Return the rows without their padding. Raises ShapeError if a row has padding before or between its tokens."""
        real = self.attention_mask.astype(bool)
        lengths = real.sum(axis=1)
        if not (real == (np.arange(self.shape[1]) < lengths[:, None])).all():
            raise ShapeError("a row with padding before or between its tokens; pad on the right")
        return EncodedPairs(
            # Clip ids and types that do not fit the dtype to values outside every model's range, so that they are refused later.
            ids=self.input_ids[real].clip(-1, 2**31 - 1).astype(np.int32),
            type_ids=np.where(self.token_type_ids[real] < 0, 255, self.token_type_ids[real].clip(max=255)).astype(
                np.uint8
            ),
            offsets=np.concatenate(([0], np.cumsum(lengths, dtype=np.int64))),
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and padded tokens of each row."""
        return self.input_ids.shape[0], self.input_ids.shape[1]


def unpadded_indices(
    pairs: EncodedPairs, rows: npt.NDArray[np.int64], width: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """Return where the tokens of these rows are when padded to `width`, and where they come from.

    The first array, bool [rows, width], is true at tokens and false at padding. The second, int64 [tokens], indexes
    `pairs.ids` in the order of the true positions.
    """
    lengths = pairs.lengths[rows]
    return np.arange(width) < lengths[:, None], ragged(pairs.offsets[rows], lengths)
