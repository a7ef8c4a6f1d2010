"""A request's memory is bounded, whatever its windows repeat, and its parts make no other scores."""

import tracemalloc
from concurrent.futures import Future
from typing import Any, ClassVar

import numpy as np
import pytest

from crossrt.engine.runtime import request as module
from crossrt.engine.runtime.pending import Pending
from crossrt.engine.runtime.request import Request, Scored
from crossrt.engine.text.encoded_pairs import EncodedPairs
from crossrt.engine.text.pair_source import TextPairs
from crossrt.engine.text.pair_tokenizer import PairTokenizer
from crossrt.engine.text.windows import Windows
from tests.engine.text.test_windows import real

QUERY = "a river"


class LastToken:
    """A scorer at once: the logit of a pair is its last token before the special one, by which windows differ."""

    config: Any = None
    first_chunk = 2
    tokenizing_threads = 1
    max_length = 512
    closed: ClassVar[bool] = False

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.inline: list[bool] = []

    def check_open(self) -> None:
        """It is never closed."""

    def submit(self, pairs: EncodedPairs, *, batch_size: int, inline: bool = False, priority: int = 0) -> Pending:
        self.tokens.append(len(pairs.ids))
        self.inline.append(inline)
        done: Future[int] = Future()
        done.set_result(len(pairs))
        logits = pairs.ids[pairs.offsets[1:] - 2].astype(np.float32)[:, None]
        return Pending([done], [len(pairs.ids)], logits)

    def run(self, batch: Any) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        """There is nothing to free."""


def scored(passages: list[str], windows: Windows) -> tuple[Scored, LastToken]:
    source = TextPairs(tokenizer=PairTokenizer(real("bert"), max_length=512))
    scorer = LastToken()
    request = Request(source=source, num_labels=1, relevant_label=0, batch_size=32, windows=windows)
    return request.score([(QUERY, passage) for passage in passages], scorer), scorer


@pytest.mark.parametrize("aggregate", ["max", "first", "mean", "mean:2", "sum"])
def test_windows_in_several_parts_score_as_in_one(monkeypatch: pytest.MonkeyPatch, aggregate: str) -> None:
    chance = np.random.default_rng(0)
    words = ["the", "river", "city", "in", "of", "is"]
    passages = [" ".join(chance.choice(words, size)) for size in (0, 3, 200, 40, 15, 1, 90)]
    windows = Windows(length=16, stride=2, aggregate=aggregate)
    expected, whole = scored(passages, windows)
    assert whole.inline == [False] * len(whole.inline)
    monkeypatch.setattr(module, "MAX_TOKENS", 30)
    found, parts = scored(passages, windows)
    assert max(parts.tokens) <= 30
    assert sum(parts.tokens) == sum(whole.tokens)
    assert len(parts.tokens) > len(whole.tokens)
    assert found.logits.tolist() == expected.logits.tolist()
    assert found.best is not None
    assert expected.best is not None
    for name in ("starts", "sizes", "counts"):
        assert getattr(found.best, name).tolist() == getattr(expected.best, name).tolist()


def test_a_single_part_is_computed_by_the_caller_and_several_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    windows = Windows(length=16, stride=2)
    assert scored(["the river " * 50], windows)[1].inline == [True]
    monkeypatch.setattr(module, "MAX_TOKENS", 30)
    assert not any(scored(["the river " * 50], windows)[1].inline)


def test_windows_that_repeat_a_long_passage_hundreds_of_times_take_bounded_memory() -> None:
    """20,000 tokens in windows of 512 with stride 1 are ten million."""
    tracemalloc.start()
    try:
        _, scorer = scored(["the river is in the city " * 3500], Windows(length=512, stride=1))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(scorer.tokens) > 10_000_000
    assert peak < 60_000_000
    assert max(scorer.tokens) <= module.MAX_TOKENS
