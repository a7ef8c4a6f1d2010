"""`Request`: how the items of one call are turned into tokens and scored, on whichever scorer."""

from collections.abc import Callable, Iterable
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BestWindows:
    """For each of n passages the window with the highest relevance, the first of equal ones, int64 [n] each.

    `places` is its first token within the passage, `sizes` its tokens of the passage, `counts` the windows of the passage.
    """

    places: Counts
    sizes: Counts
    counts: Counts


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scored:
    """Raw `logits`, float32 [n, labels], and with windows the best window of each passage."""

    logits: Floats
    best: BestWindows | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """`source` turns items into tokens; `windows` cuts long passages. `label` is the relevant one, if the model has one.

    `counter` counts the pairs that are truncated. `priority` is as in `Scorer.submit`; `cancellation` gives up the whole call.
    """

    source: PairSource[Any]
    labels: int
    label: int | None
    batch_size: int
    windows: Windows | None = None
    counter: TruncationCounter | None = None
    priority: int = 0
    cancellation: Cancellation | None = None

    def score(
        self, items: Iterable[Any], scorer: Scorer, *, progress: Callable[[int], object] = lambda rows: None
    ) -> Scored:
        """Score items in their order. Raises what the source and the scorer raise."""
        found: list[Scored] = []
        if self.windows is None:
            encode = partial(self._encoded, self.source.encode)
            chunks = scored_in_chunks(items, encode, partial(self._submit, scorer), scorer, self._size, progress)
            for encoded, logits in chunks:
                if self.counter is not None:
                    self.counter.add(encoded)
                found.append(Scored(logits=logits, best=None))
        else:
            windows = self.windows
            windowed = scored_in_chunks(
                items,
                partial(self._encoded, lambda chunk: self.source.encode_windows(chunk, windows)),
                lambda each, inline: self._submit(scorer, each.pairs, inline),
                scorer,
                self._size,
                progress,
            )
            for pairs, logits in windowed:
                best = self._best_windows(pairs, logits)
                found.append(Scored(logits=windows.aggregated(logits, pairs.offsets), best=best))
        return self._joined(found)

    def _size(self, item: Any) -> int:
        """Return about how many characters of an item, or of all its windows, become tokens."""
        windows = self.windows
        if windows is None:
            return self.source.size(item, whole=False)
        size = self.source.size(item, whole=True)
        overlapping = size > windows.length and windows.aggregate != "first"  # a token has at least one character
        return size * -(-windows.length // windows.stride) if overlapping else size

    def _encoded(self, encode: Callable[[list[Any]], Encoded], chunk: list[Any]) -> Encoded:
        if self.cancellation is not None:
            self.cancellation.check()  # before a chunk of a cancelled call is tokenized for nothing
        return encode(chunk)

    def _submit(self, scorer: Scorer, pairs: EncodedPairs, inline: bool) -> Pending:
        cancellation = self.cancellation
        if cancellation is None:
            return scorer.submit(pairs, batch_size=self.batch_size, inline=inline, priority=self.priority)
        cancellation.check()
        # Not inline: `submit` would return, and the request could be cancelled, only when it is computed.
        pending = scorer.submit(pairs, batch_size=self.batch_size, priority=self.priority)
        cancellation.add(pending)
        return pending

    def _best_windows(self, windowed: WindowedPairs, logits: Floats) -> BestWindows:
        counts = np.diff(windowed.offsets)
        if self.label is None:
            best = windowed.offsets[:-1]
        else:
            relevance = raw_relevance(logits, self.label)
            owners = np.repeat(np.arange(len(counts)), counts)
            # Sorted by passage, then by relevance; of equal windows the first comes last.
            order = np.lexsort((-np.arange(len(owners)), relevance, owners))
            best = order[windowed.offsets[1:] - 1]
        return BestWindows(places=windowed.places[best], sizes=windowed.sizes[best], counts=counts)

    def _joined(self, found: list[Scored]) -> Scored:
        logits = [each.logits for each in found]
        best = [each.best for each in found if each.best is not None]
        nothing = np.zeros(0, dtype=np.int64)
        return Scored(
            logits=np.concatenate(logits) if logits else np.zeros((0, self.labels), dtype=np.float32),
            best=None
            if self.windows is None
            else BestWindows(
                places=np.concatenate([each.places for each in best] or [nothing]),
                sizes=np.concatenate([each.sizes for each in best] or [nothing]),
                counts=np.concatenate([each.counts for each in best] or [nothing]),
            ),
        )
