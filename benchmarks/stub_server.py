#!/usr/bin/env python3
"""`crossrt serve` with a stub in place of the model, to measure and test only the server.

    benchmarks/stub_server.py --port 0 --milliseconds 5     # a text takes 5 ms; other words are options of crossrt serve

The score of a text is its length. The text `FAIL` makes the model fail until the text `REPAIR` comes; the text `NAN` gives NaN.
Texts are scored one by one, request by request; requests with a lower priority number come first. A cancelled request drops the
texts that have not begun. The file `--scored` receives the number of scored texts.
"""

import argparse
import functools
import itertools
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from crossrt.commands import serve as command
from crossrt.engine.errors import BackendError
from crossrt.engine.runtime.cancellation import Cancellation
from crossrt.engine.runtime.pending import Pending
from crossrt.engine.text.encoded_pairs import EncodedPairs
from crossrt.engine.text.windows import WindowCounts, Windows
from crossrt.server import serving


class StubPending:
    """A request of the stub; see `Pending`."""

    def __init__(self, texts: Sequence[str], priority: int, lengths: Sequence[int]) -> None:
        self.priority = priority
        self._lengths = lengths
        self.texts = deque(texts)
        self.logits = np.array([[float(len(text))] for text in texts], dtype=np.float32).reshape(len(texts), 1)
        self.error: BaseException | None = None
        self._done = threading.Event()
        self._callbacks: list[Callable[[Any], object]] = []
        self._lock = threading.Lock()

    @property
    def waiting_tokens(self) -> int:
        """Return the tokens of the texts that have not begun."""
        return sum(self._lengths[len(self._lengths) - len(self.texts) :])

    def wait(self, progress: Callable[[int], object] = lambda rows: None) -> Any:
        """Return the logits, or raise the error."""
        self._done.wait()
        if self.error is not None:
            raise self.error
        return self.logits

    def cancel(self, *, wait: bool = True) -> None:
        """Drop the texts that have not begun."""
        self.texts.clear()
        self.finish(BackendError("this request was cancelled"))

    def add_done_callback(self, function: Callable[[Any], object]) -> None:
        """Call the function once the request is done."""
        with self._lock:
            if not self._done.is_set():
                self._callbacks.append(function)
                return
        function(self)

    def finish(self, error: BaseException | None = None) -> None:
        """Mark the request as done."""
        with self._lock:
            if self._done.is_set():
                return
            self.error = error
            self._done.set()
        for function in self._callbacks:
            function(self)


def nothing(count: int) -> EncodedPairs:
    """Return `count` pairs of ten tokens."""
    ids = np.zeros(10 * count, dtype=np.int32)
    return EncodedPairs(ids=ids, type_ids=ids.astype(np.uint8), offsets=np.arange(0, 10 * count + 1, 10))


class Scored:
    """A request of the stub when texts take no time. It is done from the start."""

    waiting_tokens = 0

    def __init__(self, logits: Any) -> None:
        self._logits = logits

    def wait(self) -> Any:
        """Return the logits."""
        return self._logits

    def cancel(self, *, wait: bool = True) -> None:
        """Do nothing, since the request is done."""

    def add_done_callback(self, function: Callable[[Any], object]) -> None:
        """Call the function."""
        function(self)


class StubModel:
    """Has the methods of `CrossEncoder` that the server calls, but no model. Each text takes `seconds`."""

    device, max_length, num_labels, label_names, relevant_label = "cpu", 512, 1, ("LABEL_0",), 0

    def __init__(self, seconds: float, scored: Path | None) -> None:
        self.bundle = SimpleNamespace(path="stub")
        self._seconds, self._file, self._scored = seconds, scored, 0
        self._broken = False
        self._nothing = functools.cache(nothing)
        self._ones = np.ones((2048, 1), dtype=np.float32)
        self._texts: dict[int, str] = {}
        self._numbers = itertools.count()
        self._queue: list[StubPending] = []
        self._work = threading.Condition()
        if seconds:
            threading.Thread(target=self._compute, daemon=True).start()

    def encode(self, pairs: Sequence[tuple[str, str]], *, limits: Any = None) -> EncodedPairs:
        """Return one token per character, at least 1 and at most 512 per pair. By the first token's id `submit` finds the text.

        When texts take no time, every pair has ten tokens.
        """
        if not self._seconds:  # as little as possible, to measure the server
            return self._nothing(len(pairs))
        lengths = np.array([len(query) + len(text) for query, text in pairs], dtype=np.int64)
        offsets = np.zeros(len(pairs) + 1, dtype=np.int64)
        np.cumsum(np.clip(lengths, 1, 512), out=offsets[1:])
        ids = np.zeros(offsets[-1], dtype=np.int32)
        for (_, text), offset in zip(pairs, offsets.tolist(), strict=False):
            ids[offset] = number = next(self._numbers)
            self._texts[number] = text
        return EncodedPairs(ids=ids, type_ids=ids.astype(np.uint8), offsets=offsets, cut=np.maximum(lengths - 512, 0))

    def count_windows(self, pairs: Sequence[tuple[str, str]], windows: Windows, *, limits: Any = None) -> WindowCounts:
        """Count one token per character."""
        queries, texts = (np.array([len(text) for text in side], dtype=np.int64) for side in zip(*pairs, strict=True))
        return WindowCounts(tokens=windows.tokens(queries, texts, special_tokens=0), cut=np.zeros_like(texts))

    def submit(self, pairs: EncodedPairs, *, batch_size: int, priority: int = 0) -> Any:
        """Start to score. Without `seconds` the request is done at once."""
        if not self._seconds:
            return Scored(self._ones[: len(pairs)])
        texts = [self._texts.pop(int(pairs.ids[offset])) for offset in pairs.offsets[:-1]]
        return self._queued(texts, priority, pairs.lengths.tolist())

    def relevance(self, logits: Any) -> Any:
        """Return the logits as float32 [n]."""
        return logits[:, 0]

    def rank(
        self, query: str, documents: list[str], *, top_k: int, priority: int, cancellation: Cancellation, **options: Any
    ) -> list[dict[str, Any]]:
        """Score the texts in two passes: first all, then the `top_k` longest."""
        best = sorted(range(len(documents)), key=lambda place: -len(documents[place]))[:top_k]
        for texts in (documents, [documents[place] for place in best]):
            cancellation.check()
            pending = self._queued(texts, priority, [0] * len(texts))
            cancellation.add(cast(Pending, pending))
            pending.wait()
        return [{"corpus_id": place, "score": len(documents[place]), "window": (0, 0)} for place in best]

    def check_finite(self, logits: Any) -> None:
        """Raise BackendError for NaN."""
        if np.isnan(logits).any():
            raise BackendError("the stub gives NaN")

    def close(self) -> None:
        """Nothing to free."""

    def _queued(self, texts: Sequence[str], priority: int, lengths: Sequence[int]) -> StubPending:
        pending = StubPending(texts, priority, lengths)
        with self._work:
            self._queue.append(pending)
            self._work.notify()
        return pending

    def _judge(self, texts: Sequence[str], pending: StubPending) -> BaseException | None:
        for place, text in enumerate(texts):
            if text in ("FAIL", "REPAIR"):
                self._broken = text == "FAIL"
            if text == "NAN":
                pending.logits[place] = np.nan
        return RuntimeError("the stub is broken") if self._broken else None

    def _compute(self) -> None:
        while True:
            with self._work:
                self._work.wait_for(lambda: self._queue)
                pending = min(self._queue, key=lambda each: each.priority)
                self._queue.remove(pending)
            error = None
            while pending.texts and error is None:
                text = pending.texts.popleft()
                time.sleep(self._seconds)
                self._scored += 1
                if self._file is not None:
                    self._file.write_text(str(self._scored))
                error = self._judge([text], pending)
            pending.finish(error)


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--milliseconds", type=float, default=0.0, help="of each text")
    parser.add_argument("--scored", type=Path, help="file that gets the number of scored texts")
    own, others = parser.parse_known_args()
    model = StubModel(own.milliseconds / 1000, own.scored)
    serving.serve.__kwdefaults__["opener"] = lambda settings: model
    sys.argv = ["crossrt", "serve", "stub", *others]
    from crossrt.__main__ import main as crossrt

    assert command
    crossrt()


if __name__ == "__main__":
    main()
