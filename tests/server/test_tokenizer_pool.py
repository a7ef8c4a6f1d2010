"""Large jobs are tokenized piece by piece: what is more urgent goes first, and what nobody waits for ends."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from crossrt.engine.text.encoded_pairs import EncodedPairs
from crossrt.engine.text.windows import WindowCounts, Windows
from crossrt.server.dialects.job import Job
from crossrt.server.dialects.request_error import RequestError
from crossrt.server.models import tokenizer_pool
from crossrt.server.models.job_scorer import JobScorer
from crossrt.server.models.model_settings import ModelLimits, ModelSettings
from crossrt.server.models.served_model import OpenModel, ServedModel
from crossrt.server.models.tokenizer_pool import PIECE_CHARACTERS, PIECE_TEXTS, TokenizerPool, piece_end


class OneThreadPool:
    """Tokenizes items in one thread. Each item has its number of pieces; `add` of an item may happen within a piece."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tokenizer_pool, "THREADS", 1)
        self.order: list[str] = []
        self._left: dict[str, int] = {}
        self._arrivals: list[tuple[str, tuple[str, int, int, float, float]]] = []
        self._pool = TokenizerPool(self._work)

    def add(self, name: str, pieces: int, priority: int, now: float, characters: float) -> None:
        self._left[name] = pieces
        self._pool.add(name, priority=priority, now=now, characters=int(characters))

    def when(self, name: str, *arrival: Any) -> None:
        """Let another item arrive while the first piece of an item is tokenized."""
        self._arrivals.append((name, arrival))

    def _work(self, name: str) -> bool:
        self.order.append(name)
        for after, arrival in self._arrivals:
            if after == name and self.order.count(name) == 1:
                self.add(*arrival)
        self._left[name] -= 1
        return not self._left[name]

    def result(self) -> str:
        # The pool takes no more items once it is closed, so all must have come.
        while sum(self._left.values()):
            threading.Event().wait(0.001)
        self._pool.close()
        return " ".join(self.order)


def test_a_small_list_goes_before_the_rest_of_a_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = OneThreadPool(monkeypatch)
    pool.when("large", "small", 1, 0, 1.0, 1e4)
    pool.when("large", "other", 2, 0, 0.5, 8e6)
    pool.add("large", 3, 0, 0.0, 8e6)
    assert pool.result() == "large small large large other other"


def test_a_lower_priority_goes_first_whatever_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = OneThreadPool(monkeypatch)
    pool.when("large", "small", 1, 0, 1.0, 1e4)
    pool.when("large", "urgent", 2, -1, 2.0, 8e6)
    pool.when("large", "later", 1, 1, 2.0, 1e4)
    pool.add("large", 2, 0, 0.0, 8e6)
    assert pool.result() == "large urgent urgent small large later"


def test_a_large_list_is_not_held_up_by_small_ones_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = OneThreadPool(monkeypatch)
    pool.when("large", "soon", 1, 0, 7.9, 1e4)
    pool.when("soon", "late", 1, 0, 8.1, 1e4)
    pool.add("large", 3, 0, 0.0, 8e6)
    assert pool.result() == "large soon large large late"


def test_pieces_have_bounded_texts_and_characters() -> None:
    many = [("q", "text")] * (2 * PIECE_TEXTS + 1)
    assert [piece_end(many, begin) for begin in (0, PIECE_TEXTS, 2 * PIECE_TEXTS)] == [
        PIECE_TEXTS,
        2 * PIECE_TEXTS,
        2 * PIECE_TEXTS + 1,
    ]
    large = [("q", "x" * (PIECE_CHARACTERS // 2 - 1))] * 5
    assert [piece_end(large, begin) for begin in (0, 2, 4)] == [2, 4, 5]
    assert piece_end([("q", "x" * 5 * PIECE_CHARACTERS)] * 2, 0) == 1
    # A long query is tokenized in each piece, but together with as much of the passages.
    query = "q" * 4 * PIECE_CHARACTERS
    assert piece_end([(query, "x" * PIECE_CHARACTERS)] * 9, 0) == 4
    assert piece_end([(f"{number}" * PIECE_CHARACTERS, "x") for number in range(9)], 0) == 1


class Model:
    """Counts the calls that tokenize, and makes a token of every text."""

    max_length, num_labels, label_names, relevant_label = 512, 1, ("a",), 0

    def __init__(self) -> None:
        self.calls = 0
        self.began, self.go_on = threading.Event(), threading.Event()

    def _count(self) -> None:
        self.calls += 1
        self.began.set()
        assert self.go_on.wait(30)

    def encode(self, pairs: Sequence[tuple[str, str]], *, limits: Any = None) -> EncodedPairs:
        self._count()
        ids = np.zeros(len(pairs), dtype=np.int32)
        return EncodedPairs(ids=ids, type_ids=ids.astype(np.uint8), offsets=np.arange(len(pairs) + 1))

    def count_windows(self, pairs: Sequence[tuple[str, str]], windows: Windows, *, limits: Any = None) -> WindowCounts:
        self._count()
        ones = np.ones(len(pairs), dtype=np.int64)
        return WindowCounts(tokens=ones, cut=0 * ones)

    def rank(self, query: str, documents: list[str], *, encoded: EncodedPairs, **_: Any) -> list[dict[str, Any]]:
        return [{"corpus_id": place, "score": len(encoded)} for place in range(len(documents))]

    def close(self) -> None:
        pass


def job(pieces: int, windows: Windows | None, *, exact: bool | None = None) -> Job:
    return Job(pairs=[("q", "x" * 40)] * (pieces * PIECE_TEXTS), windows=windows, exact=exact)


def test_a_job_with_exact_is_tokenized_once() -> None:
    async def run() -> tuple[int, set[float]]:
        model: Any = Model()
        model.go_on.set()
        scoring = JobScorer(model, ModelSettings(name="m", bundle="b"))
        outcome = await scoring.start(job(3, None, exact=True)).future
        await asyncio.to_thread(scoring.close)
        return int(model.calls), {*outcome.relevance}

    assert asyncio.run(run()) == (3, {3.0 * PIECE_TEXTS})


@pytest.mark.parametrize("windows", [None, Windows(length=9, stride=1)])
def test_a_job_that_is_given_up_is_tokenized_no_further(windows: Windows | None) -> None:
    async def run() -> int:
        model: Any = Model()
        scoring = JobScorer(model, ModelSettings(name="m", bundle="b"))
        begun = scoring.start(job(5, windows))
        await asyncio.to_thread(model.began.wait, 30)
        scoring.give_up(begun, RequestError("deadline", "too late"))
        model.go_on.set()
        with pytest.raises(RequestError, match="too late"):
            await begun.future
        await asyncio.to_thread(scoring.close)
        return int(model.calls)

    assert asyncio.run(run()) == 1


@pytest.mark.parametrize("windows", [None, Windows(length=9, stride=1)])
def test_a_job_with_too_many_tokens_is_tokenized_no_further(windows: Windows | None) -> None:
    async def run() -> int:
        model: Any = Model()
        limits = ModelLimits(max_request_tokens=2 * PIECE_TEXTS - 1)
        scoring = JobScorer(model, ModelSettings(name="m", bundle="b", limits=limits))
        model.go_on.set()
        begun = scoring.start(job(5, windows))
        with pytest.raises(RequestError, match=r"more than 512 tokens.*and 511 are allowed"):
            await begun.future
        await asyncio.to_thread(scoring.close)
        return int(model.calls)

    assert asyncio.run(run()) == 2


@pytest.mark.parametrize(("name", "exact"), [("_tokenizer_pool", None), ("_ranking", True)])
def test_a_system_without_threads_for_a_job_leaves_nothing_in_the_queue(
    monkeypatch: pytest.MonkeyPatch, name: str, exact: bool | None
) -> None:
    def no_more() -> None:
        raise RuntimeError("can't start new thread")

    async def run() -> tuple[int, int, int]:
        model: Any = Model()
        model.go_on.set()
        served = ServedModel(ModelSettings(name="m", bundle="b"), lambda settings: model)
        served._opened = OpenModel(model, served.settings)
        scoring = served._opened.scoring
        kept: Any = getattr(scoring, name)
        pool = kept._threads if name == "_tokenizer_pool" else kept
        monkeypatch.setattr(pool, "_adjust_thread_count", no_more)
        with pytest.raises(RequestError, match="can't start new thread"):
            await served.score(job(5, None, exact=exact), receive=asyncio.Event().wait, seconds=20)  # type: ignore[arg-type]
        monkeypatch.undo()
        await asyncio.to_thread(scoring.close)
        return served.queue.tokens, served.queue.requests, len(served.runs)

    assert asyncio.run(run()) == (0, 0, 0)
