"""`Request`: tokenizes the items of one call, and scores them on any scorer."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ..activation import Floats
from ..scores import raw_relevance
from ..text.encoded_pairs import EncodedPairs
from ..text.pair_source import PairSource
from ..text.truncation import TruncationCounter
from ..text.windows import WindowedPairs, Windows
from .cancellation import Cancellation
from .chunks import Encoded, scored_in_chunks
from .pending import Pending
from .scorer import Scorer

Counts = npt.NDArray[np.int64]

MAX_TOKENS = 1_000_000
"""Most tokens of windows that are scored together. With a small stride, the windows of a long passage have hundreds of times the
passage's tokens."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BestWindows:
    """For each of n passages, the window with the highest relevance; of equal ones, the first. Arrays are int64 [n].

    `starts` is the number of its first token within the passage, `sizes` the number of passage tokens in it, and `counts` the
    number of windows of the passage.
    """

    starts: Counts
    sizes: Counts
    counts: Counts


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scored:
    """Raw `logits`, float32 [n, labels], and with windows the best window of each passage."""

    logits: Floats
    best: BestWindows | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """`source` turns items into tokens; `windows` cuts long passages. `relevant_label` is None if the model has none.

    `counter` counts the pairs that are truncated. `priority` is as in `Scorer.submit`; `cancellation` cancels the whole call.
    """

    source: PairSource[Any]
    num_labels: int
    relevant_label: int | None
    batch_size: int
    windows: Windows | None = None
    counter: TruncationCounter | None = None
    priority: int = 0
    cancellation: Cancellation | None = None

    def score(
        self, items: Iterable[Any], scorer: Scorer, *, progress: Callable[[int], object] = lambda rows: None
    ) -> Scored:
        """Score items in their order. Raises what the source and the scorer raise."""
        if self.windows is not None:
            return self._joined(list(self._score_windows(items, self.windows, scorer, progress)))
        found: list[Scored] = []
        encode = partial(self._encoded, lambda chunk: [self.source.encode(chunk)])
        for encoded, logits in scored_in_chunks(
            items, encode, partial(self._submit, scorer), scorer, self._size, progress
        ):
            if self.counter is not None:
                self.counter.add(encoded)
            found.append(Scored(logits=logits, best=None))
        return self._joined(found)

    def _score_windows(
        self, items: Iterable[Any], windows: Windows, scorer: Scorer, progress: Callable[[int], object]
    ) -> Iterator[Scored]:
        """Yield the scores of each chunk of items. The windows of one long passage may be split into many parts."""

        def encode(chunk: list[Any]) -> list[tuple[WindowedPairs, slice]]:
            windowed = self.source.encode_windows(chunk, windows)
            return [(windowed, rows) for rows in windowed.parts(MAX_TOKENS)]

        def submit(part: tuple[WindowedPairs, slice], inline: bool) -> Pending:
            windowed, rows = part
            return self._submit(scorer, windowed.pairs(rows), inline)

        parts: list[Floats] = []
        for (windowed, rows), logits in scored_in_chunks(
            items, partial(self._encoded, encode), submit, scorer, self._size, progress
        ):
            parts.append(logits)
            if rows.stop == windowed.offsets[-1]:
                whole = np.concatenate(parts)
                parts.clear()
                best = self._best_windows(windowed, whole)
                yield Scored(logits=windows.aggregated(whole, windowed.offsets), best=best)

    def _size(self, item: Any) -> int:
        """Return about how many characters of an item, or of all its windows, are tokenized."""
        windows = self.windows
        if windows is None:
            return self.source.size(item, whole=False)
        size = self.source.size(item, whole=True)
        # A shorter text fits into one window, because a token has at least one character.
        overlapping = size > windows.length and windows.aggregate != "first"
        return size * -(-windows.length // windows.stride) if overlapping else size

    def _encoded(self, encode: Callable[[list[Any]], Sequence[Encoded]], chunk: list[Any]) -> Sequence[Encoded]:
        if self.cancellation is not None:
            self.cancellation.check()  # before a chunk of a cancelled call is tokenized for nothing
        return encode(chunk)

    def _submit(self, scorer: Scorer, pairs: EncodedPairs, inline: bool) -> Pending:
        cancellation = self.cancellation
        if cancellation is None:
            return scorer.submit(pairs, batch_size=self.batch_size, inline=inline, priority=self.priority)
        cancellation.check()
        # Not inline: `submit` would then return only after the computation, too late to cancel it.
        pending = scorer.submit(pairs, batch_size=self.batch_size, priority=self.priority)
        cancellation.add(pending)
        return pending

    def _best_windows(self, windowed: WindowedPairs, logits: Floats) -> BestWindows:
        counts = np.diff(windowed.offsets)
        if self.relevant_label is None:
            best = windowed.offsets[:-1]
        else:
            relevance = raw_relevance(logits, self.relevant_label)
            passage_rows = np.repeat(np.arange(len(counts)), counts)
            # Sorted by passage, then by relevance; of equal windows the first comes last.
            order = np.lexsort((-np.arange(len(passage_rows)), relevance, passage_rows))
            best = order[windowed.offsets[1:] - 1]
        return BestWindows(starts=windowed.window_starts[best], sizes=windowed.sizes[best], counts=counts)

    def _joined(self, found: list[Scored]) -> Scored:
        logits = [each.logits for each in found]
        best = [each.best for each in found if each.best is not None]
        nothing = np.zeros(0, dtype=np.int64)
        return Scored(
            logits=np.concatenate(logits) if logits else np.zeros((0, self.num_labels), dtype=np.float32),
            best=None
            if self.windows is None
            else BestWindows(
                starts=np.concatenate([each.starts for each in best] or [nothing]),
                sizes=np.concatenate([each.sizes for each in best] or [nothing]),
                counts=np.concatenate([each.counts for each in best] or [nothing]),
            ),
        )
