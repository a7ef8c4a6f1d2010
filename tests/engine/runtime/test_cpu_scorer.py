"""Batches side by side: never more than there are processors, and the same scores however they are cut."""

import gc
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossrt.engine.batching.batch import Batch
from crossrt.engine.bundle.bundle import Bundle
from crossrt.engine.cross_encoder import CrossEncoder
from crossrt.engine.errors import BackendError
from crossrt.engine.hardware.cpus import Cores
from crossrt.engine.precision import Precision
from crossrt.engine.runtime import chunks, cpu_scorer, cpu_workers, fair_queue
from crossrt.engine.runtime.cpu_scorer import CpuScorer
from crossrt.engine.runtime.pending import Pending
from crossrt.engine.selection.execution_config import CpuConfig
from crossrt.engine.text.encoded_pairs import EncodedPairs
from crossrt.engine.text.pair_tokenizer import PairTokenizer
from tests.engine.samples import cpu_config, pairs_of


class Counting:
    """A session whose logit is the pair's number of tokens. It counts the threads that compute at once."""

    backend, device, precision = "counting", "cpu", Precision.FP32
    lock = threading.Lock()
    busy = most = 0
    fails_at = -1

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.closed = False
        self.shapes: set[tuple[int, int]] = set()

    def run(self, batch: Batch) -> Any:
        with Counting.lock:
            Counting.busy += self.threads
            Counting.most = max(Counting.most, Counting.busy)
            self.shapes.add(batch.shape)
        time.sleep(0.002)
        with Counting.lock:
            Counting.busy -= self.threads
        if int(batch.attention_mask.sum(axis=1).max()) == Counting.fails_at:
            raise MemoryError("no memory for this batch")
        return batch.attention_mask.sum(axis=1, keepdims=True).astype(np.float32)

    def score(self, pairs: EncodedPairs, rows: Any, width: int) -> Any:
        return self.run(Batch.padded(pairs, rows, 0, width))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Counting]:
    """The sessions that were opened, on a machine of four processors."""
    sessions: list[Counting] = []

    def open_counting(self: CpuConfig, bundle: Bundle, *, threads: int, streams: int) -> Counting:
        sessions.append(Counting(threads))
        return sessions[-1]

    monkeypatch.setattr(CpuConfig, "open", open_counting)
    cores = Cores(4)
    monkeypatch.setattr(cpu_scorer, "CORES", cores)
    monkeypatch.setattr(cpu_workers, "CORES", cores)
    Counting.busy = Counting.most = 0
    Counting.fails_at = -1
    return sessions


@pytest.fixture
def make(bundle: Path, opened: list[Counting]) -> Iterator[Callable[..., CpuScorer]]:
    scorers: list[CpuScorer] = []

    def make(streams: int = 4, batch_size: int = 32) -> CpuScorer:
        config = cpu_config("counting", threads=4, streams=streams, batch_size=batch_size)
        scorers.append(CpuScorer(Bundle.open(bundle), config))
        return scorers[-1]

    yield make
    for scorer in scorers:
        scorer.close()


LENGTHS = [int(length) for length in np.random.default_rng(3).integers(4, 60, 200)]


def test_scores_come_back_in_the_order_of_the_pairs(make: Callable[..., CpuScorer]) -> None:
    scorer = make()
    seen: list[int] = []
    logits = scorer.submit(pairs_of(LENGTHS), batch_size=16).wait(seen.append)
    assert logits.ravel().tolist() == LENGTHS
    assert sum(seen) == len(LENGTHS)
    assert max(seen) <= 16
    assert scorer.submit(pairs_of([]), batch_size=16).wait().shape == (0, 1)


def test_two_models_together_keep_no_more_in_flight_than_there_are_processors(make: Callable[..., CpuScorer]) -> None:
    models = [make(), make(), make(streams=1)]
    pending = [model.submit(pairs_of(LENGTHS), batch_size=8) for model in models for _ in range(2)]
    for each in pending:
        assert each.wait().ravel().tolist() == LENGTHS
    assert Counting.most == 4


def test_every_stream_has_work_and_too_few_pairs_are_computed_by_all_processors(
    make: Callable[..., CpuScorer], opened: list[Counting]
) -> None:
    scorer = make()
    seen: list[int] = []
    scorer.submit(pairs_of([50] * 16), batch_size=32).wait(seen.append)
    assert seen == [4, 4, 4, 4]
    assert [session.threads for session in opened] == [1]
    assert scorer.submit(pairs_of([50] * 3), batch_size=32).wait().ravel().tolist() == [50] * 3
    scorer.wait_until_wide(timeout=10)
    seen.clear()
    scorer.submit(pairs_of([9, 9]), batch_size=32).wait(seen.append)
    assert seen == [2]
    assert [session.threads for session in opened] == [1, 4]  # opened once, when it was needed
    assert Counting.most == 4


def test_small_requests_of_all_lengths_meet_few_shapes_too(
    make: Callable[..., CpuScorer], opened: list[Counting]
) -> None:
    scorer = make()
    scorer.submit(pairs_of([9]), batch_size=32).wait()
    scorer.wait_until_wide(timeout=10)
    for length in range(4, 60):
        assert scorer.submit(pairs_of([length]), batch_size=32).wait().ravel().tolist() == [length]
    wide = opened[1]
    assert wide.threads == 4
    assert wide.shapes == {(1, length) for length in range(8, 65, 8)}
    scorer.submit(pairs_of([50, 20, 30]), batch_size=2).wait()
    assert max(rows for rows, _ in wide.shapes) == 1, "more than a batch may hold goes by streams"


def test_an_error_calls_off_what_has_not_begun_and_leaves_the_model_usable(make: Callable[..., CpuScorer]) -> None:
    scorer = make()
    Counting.fails_at = max(LENGTHS)
    with pytest.raises(MemoryError, match="no memory for this batch"):
        scorer.submit(pairs_of(LENGTHS), batch_size=1).wait()
    assert Counting.busy == 0
    Counting.fails_at = -1
    assert scorer.submit(pairs_of([5, 6, 7, 8]), batch_size=1).wait().ravel().tolist() == [5, 6, 7, 8]


def test_closing_waits_frees_both_sessions_and_refuses_more(
    make: Callable[..., CpuScorer], opened: list[Counting]
) -> None:
    scorer = make()
    scorer.submit(pairs_of([9]), batch_size=1).wait()
    scorer.wait_until_wide(timeout=10)  # a scorer that is closed earlier does not open its wide session
    scorer.close()
    scorer.close()
    assert [session.closed for session in opened] == [True, True]
    pairs = pairs_of([9] * 9)
    for call in (lambda: scorer.submit(pairs, batch_size=1), lambda: scorer.run(Batch.padded(pairs, np.arange(9), 0))):
        with pytest.raises(BackendError, match="this model is closed; open the bundle again"):
            call()
    assert scorer.closed


def test_a_cancelled_request_computes_nothing_more_and_says_so(
    make: Callable[..., CpuScorer], monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = make(streams=1)
    begun, go_on = threading.Event(), threading.Event()
    run = Counting.run

    def slow_run(self: Counting, batch: Batch) -> Any:
        begun.set()
        go_on.wait(10)
        return run(self, batch)

    monkeypatch.setattr(Counting, "run", slow_run)
    pending = scorer.submit(pairs_of([9] * 5), batch_size=1)
    begun.wait(10)
    threading.Timer(0.05, go_on.set).start()
    pending.cancel()  # waits for the batch that has begun
    assert go_on.is_set()
    assert len(scorer.submit(pairs_of([9]), batch_size=1).wait()) == 1
    with pytest.raises(BackendError, match="this request was cancelled; submit it again"):
        pending.wait()


def test_a_request_that_waits_when_the_model_is_closed_says_so(
    make: Callable[..., CpuScorer], monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = make(streams=1)
    begun = threading.Event()
    run = Counting.run

    def slow_run(self: Counting, batch: Batch) -> Any:
        begun.set()
        time.sleep(0.2)
        return run(self, batch)

    monkeypatch.setattr(Counting, "run", slow_run)
    pending = scorer.submit(pairs_of([9] * 5), batch_size=1)
    begun.wait(10)
    scorer.close()
    with pytest.raises(BackendError, match="this model was closed while a request waited; open the bundle again"):
        pending.wait()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Sessions compute nothing before this event is set."""
    go_on = threading.Event()
    run = Counting.run

    def gated_run(self: Counting, batch: Batch) -> Any:
        go_on.wait(30)
        return run(self, batch)

    monkeypatch.setattr(Counting, "run", gated_run)
    yield go_on
    go_on.set()


def noted(pending: Pending, name: str, done: list[str]) -> Pending:
    pending.add_done_callback(lambda _: done.append(name))
    return pending


def test_a_small_request_is_done_before_the_large_one_that_came_first(
    make: Callable[..., CpuScorer], gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []  # tokens of the batches, in the order of their turns, whichever thread is fast
    begin = fair_queue._Request.begin

    def noted_begin(request: Any) -> Any:
        batch = begin(request)
        begun.append(batch.tokens)
        return batch

    monkeypatch.setattr(fair_queue._Request, "begin", noted_begin)
    scorer = make(streams=2)
    done: list[str] = []
    large = noted(scorer.submit(pairs_of([50] * 200), batch_size=4), "large", done)
    for length in (9, 10, 11):
        noted(scorer.submit(pairs_of([length] * 4), batch_size=1), "small", done)
    gate.set()
    large.wait()
    assert [tokens for tokens in begun if tokens < 200] == [9] * 4 + [10] * 4 + [11] * 4
    last = len(begun) - begun[::-1].index(11)
    assert begun[:last].count(200) < 5, "of 50: the small ones waited for little more than what had begun"
    assert done == ["small", "small", "small", "large"]


def test_a_batch_is_chosen_only_when_a_processor_is_free(
    make: Callable[..., CpuScorer], monkeypatch: pytest.MonkeyPatch
) -> None:
    cores = Cores(4)
    monkeypatch.setattr(cpu_workers, "CORES", cores)
    scorer = make(streams=4)
    done: list[str] = []
    with cores.reserved(4):  # by another model
        low = noted(scorer.submit(pairs_of([9] * 4), batch_size=4, priority=1), "low", done)
        while len(cores._waiting) < 4:
            time.sleep(0.001)
        urgent = noted(scorer.submit(pairs_of([9] * 8), batch_size=1, priority=-1), "urgent", done)
        assert low.waiting_tokens == 36
    urgent.wait()
    low.wait()
    assert done == ["urgent", "low"]


def test_a_small_request_beside_others_is_not_kept_until_all_processors_are_idle(
    make: Callable[..., CpuScorer], opened: list[Counting], gate: threading.Event
) -> None:
    scorer = make()
    gate.set()
    scorer.submit(pairs_of([9]), batch_size=32).wait()
    scorer.wait_until_wide(timeout=10)
    scorer.submit(pairs_of([8]), batch_size=32).wait()
    assert opened[1].shapes == {(1, 8)}
    gate.clear()
    other = scorer.submit(pairs_of([50] * 9), batch_size=1)
    small = scorer.submit(pairs_of([16]), batch_size=32)
    gate.set()
    assert small.wait().ravel().tolist() == [16]
    other.wait()
    assert opened[1].shapes == {(1, 8)}, "computed by a stream"
    scorer.submit(pairs_of([16]), batch_size=32).wait()
    assert opened[1].shapes == {(1, 8), (1, 16)}, "the processors are idle again"


def test_an_error_that_nobody_waits_for_cancels_the_rest_of_its_request_alone(
    make: Callable[..., CpuScorer], gate: threading.Event
) -> None:
    scorer = make(streams=1)
    Counting.fails_at = 40
    told: list[Pending] = []
    ended = threading.Event()
    failing = scorer.submit(pairs_of([40] * 2 + [30] * 500), batch_size=2)
    other = scorer.submit(pairs_of([20] * 10), batch_size=2)
    failing.add_done_callback(told.append)
    failing.add_done_callback(lambda _: ended.set())
    gate.set()
    assert ended.wait(30)
    assert told == [failing]
    assert failing.waiting_tokens == 0
    with pytest.raises(MemoryError, match="no memory for this batch"):
        failing.wait()
    assert other.wait().ravel().tolist() == [20] * 10


def test_waiting_tokens_are_those_of_batches_that_have_not_begun(
    make: Callable[..., CpuScorer], gate: threading.Event
) -> None:
    scorer = make(streams=1)
    pending = scorer.submit(pairs_of([20] * 10), batch_size=1)
    while pending.waiting_tokens == 200:
        time.sleep(0.001)
    assert pending.waiting_tokens == 180
    pending.cancel(wait=False)  # returns while the first batch is computed
    assert pending.waiting_tokens == 0
    gate.set()
    with pytest.raises(BackendError, match="this request was cancelled; submit it again"):
        pending.wait()
    assert scorer.submit(pairs_of([]), batch_size=1).waiting_tokens == 0


def test_a_callback_is_called_once_when_a_request_is_done_cancelled_or_closed(
    make: Callable[..., CpuScorer], gate: threading.Event
) -> None:
    scorer = make(streams=1)
    done: list[str] = []
    noted(scorer.submit(pairs_of([]), batch_size=1), "empty", done)
    first = noted(scorer.submit(pairs_of([9] * 5), batch_size=1), "first", done)
    cancelled = noted(scorer.submit(pairs_of([9] * 5), batch_size=1), "cancelled", done)
    noted(scorer.submit(pairs_of([9] * 5), batch_size=1), "waiting", done)
    assert done == ["empty"]
    cancelled.cancel()
    assert done == ["empty", "cancelled"]
    while first.waiting_tokens == 45:
        time.sleep(0.001)
    closing = threading.Thread(target=scorer.close)
    closing.start()
    while "waiting" not in done:
        time.sleep(0.001)
    gate.set()
    closing.join()
    assert done[:2] == ["empty", "cancelled"]
    assert sorted(done[2:]) == ["first", "waiting"]
    noted(first, "late", done)
    assert done[-1] == "late"


def test_a_callback_that_fails_is_logged_and_harms_no_request(
    make: Callable[..., CpuScorer], caplog: pytest.LogCaptureFixture
) -> None:
    scorer = make()
    pending = scorer.submit(pairs_of([9] * 5), batch_size=1)
    pending.add_done_callback(lambda _: 1 / 0)
    assert pending.wait().ravel().tolist() == [9] * 5
    while "ZeroDivisionError" not in caplog.text:
        time.sleep(0.001)
    assert scorer.submit(pairs_of([9] * 5), batch_size=1).wait().ravel().tolist() == [9] * 5


def test_a_finished_request_is_freed_without_the_garbage_collector(make: Callable[..., CpuScorer]) -> None:
    scorer = make()
    gc.disable()
    try:
        pairs = pairs_of([9] * 5)
        freed = weakref.ref(pairs.ids)
        pending = scorer.submit(pairs, batch_size=1)
        pending.add_done_callback(lambda _: None)
        pending.wait()
        del pending, pairs
        end = time.monotonic() + 10
        while freed() is not None and time.monotonic() < end:
            time.sleep(0.001)  # a thread lets go of its batch a moment after the batch is done
        assert freed() is None
    finally:
        gc.enable()


def test_one_that_wants_all_processors_is_not_passed_over() -> None:
    cores = Cores(2)
    order: list[str] = []
    first, stop = threading.Event(), threading.Event()

    def hold() -> None:
        with cores.reserved(1):
            first.set()
            stop.wait()

    def take(name: str, wanted: int) -> None:
        with cores.reserved(wanted):
            order.append(name)

    threads = [threading.Thread(target=hold)]
    threads[0].start()
    first.wait()
    for name, wanted in (("all", 99), ("one", 1)):
        threads.append(threading.Thread(target=take, args=(name, wanted)))
        threads[-1].start()
        while len(cores._waiting) < len(threads) - 1:
            time.sleep(0.001)
    assert order == []  # one processor is free, but the first in the queue waits for two
    stop.set()
    for thread in threads:
        thread.join()
    assert order == ["all", "one"]


def test_requests_of_many_threads_each_get_their_own_scores(bundle: Path) -> None:
    pairs = [(f"river {number}", "city " * (number % 23)) for number in range(60)]
    with CrossEncoder(bundle) as model:
        expected = model.predict(pairs)
        results: dict[int, Any] = {}

        def score(number: int) -> None:
            results[number] = model.predict(pairs[number:] + pairs[:number])

        threads = [threading.Thread(target=score, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for number, scores in results.items():
        np.testing.assert_allclose(scores, np.concatenate([expected[number:], expected[:number]]), atol=2e-5)


def test_nothing_spins_when_idle(bundle: Path) -> None:
    with CrossEncoder(bundle) as model:
        model.predict([("river", "city")] * 50)
        before = time.process_time()
        time.sleep(0.5)
        assert time.process_time() - before < 0.1


def test_the_tokenizer_works_on_the_next_chunk_while_the_last_is_computed(
    bundle: Path, opened: list[Counting], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK", 10)
    events: list[str] = []
    second = threading.Event()
    encode, run = PairTokenizer.encode, Counting.run

    def noted_encode(self: PairTokenizer, chunk: Any, *, prompt: str | None = None) -> EncodedPairs:
        events.append("tokenize")
        if events.count("tokenize") == 2:
            second.set()
        return encode(self, chunk, prompt=prompt)

    def noted_run(self: Counting, batch: Batch) -> Any:
        second.wait(10)  # times out if the second chunk is tokenized only after the first was computed
        events.append("computed")
        return run(self, batch)

    monkeypatch.setattr(PairTokenizer, "encode", noted_encode)
    monkeypatch.setattr(Counting, "run", noted_run)
    with CrossEncoder(bundle) as model:
        model.logits([("river", "city")] * 30)
    assert events[:2] == ["tokenize", "tokenize"]


def test_a_wide_session_that_cannot_be_opened_leaves_small_requests_to_the_streams(
    make: Callable[..., CpuScorer], monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = make()
    monkeypatch.setattr(CpuConfig, "open", lambda *_, **__: 1 / 0)
    for _ in range(3):
        assert scorer.submit(pairs_of([9]), batch_size=32).wait().tolist() == [[9]]


def test_requests_do_not_wait_while_the_wide_session_is_opened(
    make: Callable[..., CpuScorer], monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer, go_on, in_time, open_session = make(), threading.Event(), [], CpuConfig.open

    def slowly(*arguments: Any, **options: Any) -> Any:
        in_time.append(go_on.wait(10))
        return open_session(*arguments, **options)

    monkeypatch.setattr(CpuConfig, "open", slowly)
    for _ in range(3):
        assert scorer.submit(pairs_of([9]), batch_size=32).wait().tolist() == [[9]]
    go_on.set()
    scorer.wait_until_wide(timeout=10)
    assert in_time == [True]


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_thread_that_scores_while_the_interpreter_ends_is_told_so(bundle: Path, backend: str) -> None:
    pytest.importorskip(backend)
    program = """
import sys, threading, time
from crossrt import CrossEncoder
model = CrossEncoder(sys.argv[1], backend=sys.argv[2], device="cpu")
scored = threading.Event()
def score():
    before = model.predict([("a", "b")] * 5).tolist()
    scored.set()
    threading.main_thread().join()
    give_up = time.monotonic() + 30  # the executors shut down a moment after the main thread has ended
    while time.monotonic() < give_up:
        try:
            assert model.predict([("a", "b")] * 5).tolist() == before
        except Exception as error:
            print(f"{type(error).__name__}: {error}")
            break
threading.Thread(target=score).start()
scored.wait()
"""
    child = subprocess.run(
        [sys.executable, "-c", program, bundle, backend], capture_output=True, text=True, timeout=120
    )
    assert child.stdout.startswith("BackendError: this process is ending"), child.stdout + child.stderr
    assert (child.returncode, child.stderr) == (0, "")


def test_where_no_thread_can_be_started_the_limit_is_named(
    make: Callable[..., CpuScorer], monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = make()

    def refused(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    with pytest.raises(BackendError, match=r"can't start new thread\): the system's limit.*ulimit -u"):
        scorer.submit(pairs_of([9, 8, 7]), batch_size=32)
    monkeypatch.undo()
