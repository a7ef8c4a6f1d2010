"""`Windows`: scores long passages in overlapping pieces, and combines the scores of the pieces."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..activation import Floats
from ..errors import InputError, OptionError
from ..options import whole
from .encoded_pairs import EncodedPairs, Spans
from .pair_template import PairTemplate

AGGREGATIONS = ("max", "first", "mean", "sum")
TOP_MEAN = re.compile(r"mean:([1-9]\d{0,8})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """How a passage is cut into windows, and how their scores are combined.

    A window has at most `length` tokens, including the query and the special tokens. It begins `stride` passage tokens after the
    window before it. If the query leaves less room than `stride`, windows follow one another without a gap. `length` replaces
    the `max_length` that the model was opened with. `aggregate` is `max`, the best window (MaxP of Dai and Callan 2019,
    arXiv:1905.09217); `first` (FirstP), for which only the first window is computed; `mean`; `mean:N`, the mean of the N best
    windows; or `sum`. The logits are aggregated, before the activation.

    Raises OptionError for a length, stride or aggregation that is not allowed.
    """

    length: int
    stride: int
    aggregate: str = "max"

    def __post_init__(self) -> None:
        whole("the length of windows", self.length, minimum=1)
        whole("the stride of windows", self.stride, minimum=1)
        if self.stride > self.length:
            raise OptionError(
                f"a stride of {self.stride} tokens would leave out tokens between windows of {self.length}; give at most that"
            )
        is_text = isinstance(self.aggregate, str)
        if not is_text or (self.aggregate not in AGGREGATIONS and not TOP_MEAN.fullmatch(self.aggregate)):
            raise OptionError(
                f"unknown aggregation {self.aggregate!r} of windows; one of {', '.join(AGGREGATIONS)}, or mean:N for the mean "
                "of the N best"
            )

    def __str__(self) -> str:
        return f"{self.length} tokens, stride {self.stride}, {self.aggregate}"

    def cut(self, queries: npt.NDArray[np.int64], passages: Spans, *, special_tokens: int) -> "PassageWindows":
        """Cut passages into windows, for queries of these lengths (int64 [n], tokens).

        `passages` has one span for each query. Raises InputError, naming the pair, for a query that leaves no room.
        """
        ids, starts, lengths = passages
        room, stride, counts = self._layout(queries, lengths, special_tokens)
        offsets = np.concatenate(([0], np.cumsum(counts)))
        passage_rows = np.repeat(np.arange(len(counts)), counts)
        window_starts = (np.arange(offsets[-1]) - offsets[:-1][passage_rows]) * stride[passage_rows]
        sizes = np.minimum(room[passage_rows], lengths[passage_rows] - window_starts)
        return PassageWindows(
            spans=(ids, starts[passage_rows] + window_starts, sizes),
            offsets=offsets,
            passage_rows=passage_rows,
            window_starts=window_starts,
        )

    def tokens(
        self, queries: npt.NDArray[np.int64], passages: npt.NDArray[np.int64], *, special_tokens: int
    ) -> npt.NDArray[np.int64]:
        """Return how many tokens all windows of each passage have together, int64 [n], without cutting them.

        `queries` and `passages` are lengths in tokens, int64 [n]. The query and the special tokens count in each window. Raises
        InputError as `cut` does.
        """
        room, stride, counts = self._layout(queries, passages, special_tokens)
        last = np.minimum(room, passages - (counts - 1) * stride)
        return counts * (queries + special_tokens) + (counts - 1) * room + last

    def _layout(
        self, queries: npt.NDArray[np.int64], passages: npt.NDArray[np.int64], special_tokens: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the most tokens of a passage that a window has, the stride, and the number of windows, int64 [n] each."""
        room = self.length - special_tokens - queries
        if len(room) and room.min() < 1:
            pair = int(np.flatnonzero(room < 1)[0])
            raise InputError(
                f": a query of {queries[pair]} tokens and {special_tokens} special tokens leave no room for the passage in a "
                f"window of {self.length}; make windows longer",
                pair=pair,
            )
        stride = np.minimum(self.stride, room)
        counts = np.ones(len(passages), dtype=np.int64)
        if self.aggregate != "first":
            counts += np.maximum(0, -(-(passages - room) // stride))
        return room, stride, counts

    def aggregated(self, logits: Floats, offsets: npt.NDArray[np.int64]) -> Floats:
        """Return one row of logits for each passage, float32 [n, labels], from those of all windows [windows, labels].

        The windows of passage i are the rows `offsets[i]` to `offsets[i + 1]`, at least one. NaN stays NaN.
        """
        if not len(offsets) - 1:
            return logits[:0]
        starts = offsets[:-1]
        if self.aggregate == "first":
            return logits[starts]
        if self.aggregate == "max":
            return np.maximum.reduceat(logits, starts, axis=0)
        counts = np.diff(offsets)
        top = TOP_MEAN.fullmatch(self.aggregate)
        if top:
            best = min(int(top[1]), int(counts.max()))
            rows = [
                np.sort(logits[begin:end], axis=0)[-best:].mean(axis=0)
                for begin, end in zip(starts, offsets[1:], strict=True)
            ]
            return np.array(rows, dtype=np.float32)
        sums = np.add.reduceat(logits.astype(np.float64), starts, axis=0)
        return (sums if self.aggregate == "sum" else sums / counts[:, None]).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PassageWindows:
    """Windows of n passages, one after the other.

    `spans` are the windows' tokens; `passage_rows` int64 [windows] is the passage of each, `window_starts` int64 [windows] the
    number of its first token within the passage. The windows of passage i are `offsets[i]` to `offsets[i + 1]`, int64 [n + 1].
    """

    spans: Spans
    offsets: npt.NDArray[np.int64]
    passage_rows: npt.NDArray[np.int64]
    window_starts: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WindowCounts:
    """For n pairs: the `tokens` of all windows of the passage, and the query and passage tokens that limits `cut`, int64 [n]."""

    tokens: npt.NDArray[np.int64]
    cut: npt.NDArray[np.int64]

    @staticmethod
    def joined(parts: "Sequence[WindowCounts]") -> "WindowCounts":
        """Return the counts of all parts, in order. There must be at least one part."""
        return WindowCounts(
            tokens=np.concatenate([part.tokens for part in parts]), cut=np.concatenate([part.cut for part in parts])
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WindowedPairs:
    """The windows of n query-passage pairs. `pairs` turns each window into a pair.

    `queries` and `passages` are the tokens of each window, which `template` joins to at most `length` tokens. The windows of
    passage i are `offsets[i]` to `offsets[i + 1]`, int64 [n + 1]; `window_starts` int64 [windows] is the number of each window's
    first token within the passage. Overlapping windows share their tokens here; `pairs` copies them.
    """

    queries: Spans
    passages: Spans
    template: PairTemplate
    length: int
    offsets: npt.NDArray[np.int64]
    window_starts: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """The tokens of the passage in each window, int64 [windows]."""
        return self.passages[2]

    def pairs(self, rows: slice = slice(None)) -> EncodedPairs:
        """Return these windows, or all of them, as pairs."""
        (query_ids, query_starts, query_lengths), (ids, starts, lengths) = self.queries, self.passages
        return self.template.joined(
            (query_ids, query_starts[rows], query_lengths[rows]),
            (ids, starts[rows], lengths[rows]),
            max_length=self.length,
        )

    def parts(self, max_tokens: int) -> list[slice]:
        """Split the windows into consecutive slices, each of at most `max_tokens` tokens or of a single window."""
        windows, rows = len(self.window_starts), max(1, max_tokens // self.length)
        return [slice(begin, min(begin + rows, windows)) for begin in range(0, windows, rows)]
