"""Requests on a simulated GPU, which is stricter than a real one."""

import contextlib
import gc
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossrt.engine.batching.batch import Batch
from crossrt.engine.bundle.bundle import Bundle
from crossrt.engine.bundle.profiles import Shape
from crossrt.engine.errors import BackendError, CudaError, ShapeError
from crossrt.engine.precision import Precision
from crossrt.engine.runtime.gpu_scorer import GpuScorer
from crossrt.engine.runtime.pending import Pending
from crossrt.engine.selection.execution_config import GpuConfig
from crossrt.engine.text.encoded_pairs import EncodedPairs
from tests.engine.cuda.simulated_gpu import SimulatedContext, SimulatedExecutor, SimulatedGpu
from tests.engine.samples import pairs_of

CONFIG = GpuConfig(backend="tensorrt", precision=Precision.FP16, reason="", ordinals=(0,))


class NanExecutor(SimulatedExecutor):
    def context(self, stream: int, workspace: int) -> SimulatedContext:
        context = super().context(stream, workspace)
        enqueue = context.enqueue

        def without_numbers(shape: Any, addresses: Any) -> None:
            enqueue(shape, addresses)
            logits = addresses["logits"]
            self.cuda.kernel(stream, lambda: self.cuda.at(logits, 4 * shape[0]).view(np.float32).fill(np.nan))

        context.enqueue = without_numbers  # type: ignore[method-assign]
        return context


def scorer_on(*executors: SimulatedExecutor) -> GpuScorer:
    manifest = SimpleNamespace(labels=executors[0].labels, pad_token_id=0)
    return GpuScorer(cast(Bundle, SimpleNamespace(manifest=manifest)), CONFIG, executors)


def expected(pairs: EncodedPairs, labels: int = 1) -> np.ndarray:
    sums = [
        pairs.ids[a:b].sum() + pairs.type_ids[a:b].sum()
        for a, b in zip(pairs.offsets[:-1], pairs.offsets[1:], strict=True)
    ]
    return np.array(sums, dtype=np.float32).reshape(-1, 1) * np.arange(1, labels + 1, dtype=np.float32)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("labels", [1, 2])
def test_logits_come_in_the_order_of_the_pairs(dtype: Any, labels: int) -> None:
    device = SimulatedGpu()
    scorer = scorer_on(SimulatedExecutor(device, dtype=dtype, labels=labels))
    pairs = pairs_of([*range(1, 129), 5, 5, 128, 60])
    assert np.array_equal(scorer.submit(pairs, batch_size=32).wait(), expected(pairs, labels))
    scorer.close()
    assert device.left_behind == []
    assert device.closed


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(st.integers(1, 128), max_size=60), min_size=1, max_size=6), st.integers(1, 4), st.booleans())
def test_any_requests_one_after_the_other(requests: list[list[int]], lanes: int, graphs: bool) -> None:
    device = SimulatedGpu()
    device.graphs = graphs
    scorer = scorer_on(SimulatedExecutor(device, lanes=lanes))
    started = [(pairs_of(lengths, seed), lengths) for seed, lengths in enumerate(requests)]
    pending = [
        scorer.submit(pairs, batch_size=32, inline=bool(number % 2)) for number, (pairs, _) in enumerate(started)
    ]
    for (pairs, _), each in zip(started, pending, strict=True):
        assert np.array_equal(each.wait(), expected(pairs).reshape(-1, 1))
    scorer.close()
    assert device.left_behind == []


LARGE = pairs_of([128] * 20)
"""Ten batches of two rows, on the executor of `large_and_then`."""


class Running:
    """A request of ten batches on two lanes. `then` is called when the device is first waited for: two batches are under way.

    `rows` are those of each batch in the order in which they began.
    """

    def __init__(self, then: Callable[[GpuScorer, Pending], None]) -> None:
        self.device = SimulatedGpu()
        self.executor = SimulatedExecutor(self.device, limits=((8, 64), (2, 128)), lanes=2, graphs=0)
        self.scorer = scorer_on(self.executor)
        self.errors: list[BaseException] = []
        self._then: Callable[[GpuScorer, Pending], None] | None = then
        self._submitted = threading.Event()
        self._synchronize = self.device.synchronize
        self.device.synchronize = self._interrupted  # type: ignore[method-assign]
        self.large = self.scorer.submit(LARGE, batch_size=32)
        self._submitted.set()

    def _interrupted(self, stream: int) -> None:
        then, self._then = self._then, None
        if then is not None:
            self._submitted.wait(10)
            try:
                then(self.scorer, self.large)
            except BaseException as error:
                self.errors.append(error)
        self._synchronize(stream)

    @property
    def shapes(self) -> list[Shape]:
        return self.executor.shapes

    def close(self) -> None:
        self.scorer.close()
        assert self.errors == []
        assert self.device.left_behind == []


def test_a_small_request_is_served_before_the_rest_of_a_large_one() -> None:
    small, found = pairs_of([20] * 3), []

    def then(scorer: GpuScorer, large: Pending) -> None:
        found.append(scorer.submit(small, batch_size=32))
        assert found[0].waiting_tokens == 60
        assert large.waiting_tokens == 8 * 2 * 128

    running = Running(then)
    assert np.array_equal(running.large.wait(), expected(LARGE))
    assert np.array_equal(found[0].wait(), expected(small))
    assert [shape[1] < 128 for shape in running.shapes].index(True) == 2, "after the two batches that were under way"
    assert len(running.shapes) == 11
    running.close()


def test_a_small_request_is_done_before_a_large_one() -> None:
    done: list[str] = []

    def then(scorer: GpuScorer, large: Pending) -> None:
        large.add_done_callback(lambda _: done.append("large"))
        scorer.submit(pairs_of([20] * 3), batch_size=32).add_done_callback(lambda _: done.append("small"))

    running = Running(then)
    running.large.wait()
    running.close()
    assert done == ["small", "large"]


def test_large_requests_share_a_gpu_and_lower_priorities_go_first() -> None:
    def then(scorer: GpuScorer, large: Pending) -> None:
        for length, priority in ((90, 0), (70, 5), (110, -1)):
            scorer.submit(pairs_of([length] * 8, length), batch_size=32, priority=priority)

    running = Running(then)
    running.scorer.submit(pairs_of([1]), batch_size=32, priority=9).wait()
    lengths = [shape[1] for shape in running.shapes[:-1]]
    kinds = list(dict.fromkeys(sorted(lengths)))
    assert len(kinds) == 4, "each request has lengths of its own, rounded up"
    latest, equal, urgent, large = kinds
    assert lengths[:6] == [large] * 2 + [urgent] * 4
    assert lengths[-4:] == [latest] * 4
    assert lengths[6:13].count(equal) in (3, 4), "two requests of one priority alternate"
    running.close()


def test_batches_of_a_cancelled_request_that_have_not_begun_are_not_computed() -> None:
    running = Running(lambda scorer, large: large.cancel(wait=False))
    with pytest.raises(BackendError, match="cancelled"):
        running.large.wait()
    pairs = pairs_of([3, 9])
    assert np.array_equal(running.scorer.submit(pairs, batch_size=32).wait(), expected(pairs))
    assert len(running.shapes) == 2 + 1
    running.close()


def test_the_lanes_stay_filled_from_one_request_to_the_next() -> None:
    next_ones = [pairs_of([128] * 4, seed) for seed in range(3)]
    found: list[Pending] = []
    running = Running(lambda scorer, large: found.extend(scorer.submit(each, batch_size=32) for each in next_ones))
    running.large.wait()
    for each, pending in zip(next_ones, found, strict=True):
        assert np.array_equal(pending.wait(), expected(each))
    running.close()
    work = "".join({"kernel": "k", "synchronize": "s"}.get(verb, "") for verb in running.device.log)
    assert work == "kk" + 14 * "sk" + "ss", "one lane computes whenever the other is waited for"


def test_the_error_of_one_request_leaves_the_others_as_they_are() -> None:
    pairs, found = pairs_of([20] * 3), []

    def then(scorer: GpuScorer, large: Pending) -> None:
        found.append(
            scorer.submit(
                EncodedPairs(ids=pairs.ids, type_ids=pairs.type_ids[:1], offsets=pairs.offsets), batch_size=32
            )
        )
        found.append(scorer.submit(pairs, batch_size=32))

    running = Running(then)
    assert np.array_equal(running.large.wait(), expected(LARGE))
    with pytest.raises(IndexError):
        found[0].wait()
    assert np.array_equal(found[1].wait(), expected(pairs))
    running.close()


def test_a_request_in_the_callers_thread_takes_its_turn_where_another_thread_computes() -> None:
    pairs, found = pairs_of([20] * 3), []

    def score() -> None:
        found.append(running.scorer.submit(pairs, batch_size=32, inline=True).wait())

    def then(scorer: GpuScorer, large: Pending) -> None:
        threads.append(threading.Thread(target=score))
        threads[0].start()
        time.sleep(0.2)  # the other thread submits meanwhile

    threads: list[threading.Thread] = []
    running = Running(then)
    running.large.wait()
    threads[0].join(10)
    assert np.array_equal(found[0], expected(pairs))
    assert [shape[1] < 128 for shape in running.shapes].index(True) == 2
    running.close()


def test_scoring_allocates_nothing() -> None:
    device = SimulatedGpu()
    scorer = scorer_on(SimulatedExecutor(device))
    device.log.clear()
    for seed in range(5):
        scorer.submit(pairs_of([3, 70, 128] * 20, seed), batch_size=32).wait()
    assert not {"allocate", "allocate_pinned", "free", "create_stream"} & set(device.log)
    scorer.close()


def test_the_device_is_waited_for_once_a_lane_at_the_end_of_a_small_request() -> None:
    device = SimulatedGpu()
    scorer = scorer_on(SimulatedExecutor(device))
    device.log.clear()
    scorer.submit(pairs_of([20]), batch_size=32).wait()
    assert device.log.count("synchronize") == 1
    work = [verb for verb in device.log if verb in ("upload", "kernel", "download", "synchronize")]
    assert work == ["upload", "kernel", "download", "synchronize"]
    scorer.close()


def test_batches_are_started_before_the_first_is_waited_for() -> None:
    device = SimulatedGpu()
    scorer = scorer_on(SimulatedExecutor(device, limits=((2, 64), (2, 128))))
    device.log.clear()
    scorer.submit(pairs_of([10] * 6), batch_size=32).wait()
    work = "".join({"upload": "u", "kernel": "k", "download": "d", "synchronize": "s"}.get(v, "") for v in device.log)
    assert work == "ukdukdukdsss"
    scorer.close()


def test_a_shape_that_comes_again_becomes_a_graph_and_few_are_kept() -> None:
    device = SimulatedGpu()
    executor = SimulatedExecutor(device, lanes=1, graphs=2)
    scorer = scorer_on(executor)
    for seed in range(12):
        for length in (10, 30, 60):
            pairs = pairs_of([length], seed)
            assert scorer.submit(pairs, batch_size=32).wait() == expected(pairs)
    assert len(device.graph_works) == 2, "the least recently used leave"
    launches = device.log.count("launch")
    pairs_again = pairs_of([60], 99)
    enqueued = len(executor.shapes)
    assert scorer.submit(pairs_again, batch_size=32).wait() == expected(pairs_again)
    assert device.log.count("launch") == launches + 1
    assert len(executor.shapes) == enqueued, "a graph needs the runtime no more"
    scorer.close()
    assert device.left_behind == []


@pytest.mark.parametrize("wrong", ["nothing", "no copy up", "no kernel", "other logits"])
def test_a_graph_that_does_not_compute_what_was_launched_is_never_used(
    wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    device = SimulatedGpu()
    launch = device.launch

    def launch_wrongly(graph: int, stream: int) -> None:
        upload, kernel, download = device.graph_works[graph]
        if wrong == "no copy up":

            def compute() -> None:
                with contextlib.suppress(AssertionError):  # rows that attend to nothing
                    kernel()

            device.kernel(stream, compute)
            device.kernel(stream, download)
        elif wrong == "no kernel":
            device.kernel(stream, upload)
            device.kernel(stream, download)
        elif wrong == "other logits":
            launch(graph, stream)
            device.kernel(stream, lambda: min(device.pinned.values(), key=len).view(np.float32).__imul__(2))

    device.launch = launch_wrongly  # type: ignore[method-assign]
    scorer = scorer_on(SimulatedExecutor(device, lanes=1))
    for seed in range(6):
        pairs = pairs_of([20, 20], seed)
        assert np.array_equal(scorer.submit(pairs, batch_size=32).wait(), expected(pairs))
    assert "computes other logits than its batch" in caplog.text
    assert not device.graph_works
    scorer.close()
    assert device.left_behind == []


def test_a_proof_that_breaks_off_leaves_the_batch_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    device = SimulatedGpu()
    scorer = scorer_on(SimulatedExecutor(device, lanes=1))
    upload, uploads = device.upload, 0

    def failing(pointer: int, source: Any, stream: int) -> None:
        nonlocal uploads
        uploads += 1
        if uploads == 5:  # the upload that tests the graph: after those of two batches, the warm-up and the capture
            raise CudaError("CUDA_ERROR_UNKNOWN")
        upload(pointer, source, stream)

    device.upload = failing  # type: ignore[method-assign]
    for seed in range(4):
        pairs = pairs_of([20, 20], seed)
        assert np.array_equal(scorer.submit(pairs, batch_size=32).wait(), expected(pairs))
    assert "no CUDA graph" in caplog.text
    scorer.close()
    assert device.left_behind == []


def test_logits_that_are_no_numbers_prove_no_graph(caplog: pytest.LogCaptureFixture) -> None:
    """A graph without kernels would leave the poison in the logits, which is NaN too."""
    device = SimulatedGpu()
    scorer = scorer_on(NanExecutor(device, lanes=1))
    for seed in range(4):
        assert np.isnan(scorer.submit(pairs_of([20], seed), batch_size=32).wait()).all()
    assert "computes other logits than its batch" in caplog.text
    assert not device.graph_works
    scorer.close()


def test_closed_by_a_signals_handler_all_is_freed_when_the_request_ends() -> None:
    """The handler runs in the thread that computes the request, so waiting for it would never end."""
    device = SimulatedGpu()
    scorer = scorer_on(SimulatedExecutor(device))
    synchronize = device.synchronize

    def interrupted(stream: int) -> None:
        scorer.close()
        synchronize(stream)

    device.synchronize = interrupted  # type: ignore[method-assign]
    pairs = pairs_of([20, 100])
    assert np.array_equal(scorer.submit(pairs, batch_size=32, inline=True).wait(), expected(pairs))
    assert device.left_behind == []
    assert device.closed
    with pytest.raises(BackendError, match="closed"):
        scorer.submit(pairs, batch_size=32, inline=True)


def test_interrupted_while_it_waits_it_can_still_be_closed() -> None:
    device = SimulatedGpu()
    scorer = scorer_on(SimulatedExecutor(device))
    synchronize, interrupts = device.synchronize, [KeyboardInterrupt()]

    def interrupted(stream: int) -> None:
        if interrupts:
            raise interrupts.pop()
        synchronize(stream)

    device.synchronize = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        scorer.submit(pairs_of([20, 100]), batch_size=32, inline=True)
    scorer.close()
    assert device.left_behind == []


def test_requests_in_callers_threads_while_it_is_closed() -> None:
    device = SimulatedGpu()
    scorer = scorer_on(SimulatedExecutor(device))
    scored, refused = [0] * 4, []

    def score(number: int) -> None:
        pairs = pairs_of([20 + number] * 3, number)
        try:
            while True:
                found = scorer.submit(pairs, batch_size=32, inline=bool(number % 2)).wait()
                assert np.array_equal(found, expected(pairs))
                scored[number] += 1
        except BackendError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=score, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while min(scored) < 3:
        time.sleep(0.001)
    scorer.close()
    for thread in threads:
        thread.join(timeout=10)
    assert len(refused) == 4
    assert all("closed" in said for said in refused)
    assert device.left_behind == []


def test_a_graph_computes_in_a_context_of_its_own_and_in_the_lanes_memory() -> None:
    """The simulated device fails for a graph whose context has computed another shape since the capture."""
    device = SimulatedGpu()
    executor = SimulatedExecutor(device, lanes=1, graphs=3)
    scorer = scorer_on(executor)
    used = device.used
    for seed in range(4):
        for length in (10, 30, 60, 100, 128):  # more shapes than graphs
            pairs = pairs_of([length], seed)
            assert scorer.submit(pairs, batch_size=32).wait() == expected(pairs)
    assert executor.contexts == 1 + 3
    assert device.used == used, "64 graphs do not take 64 workspaces"
    scorer.close()
    assert executor.contexts == 0


@pytest.mark.parametrize("verb", ["begin_capture", "end_capture", "context"])
def test_where_nothing_can_be_captured_it_is_said_once_a_lane_and_all_goes_plain(
    verb: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    device = SimulatedGpu()
    executor = SimulatedExecutor(device, lanes=1)
    scorer = scorer_on(executor)
    device.failing = verb
    if verb == "context":

        def refuse(stream: int, workspace: int) -> Any:
            raise BackendError("no memory for another context")

        monkeypatch.setattr(executor, "context", refuse)
    for seed in range(4):
        for length in (50, 100):
            pairs = pairs_of([length], seed)
            assert scorer.submit(pairs, batch_size=32).wait() == expected(pairs)
    [warning] = caplog.messages
    assert "no CUDA graph on cuda:0" in warning
    assert (executor.contexts, device.graph_works) == (1, {})
    device.failing = ""
    scorer.close()
    assert device.left_behind == []


def test_a_large_shape_gets_no_graph() -> None:
    device = SimulatedGpu()
    scorer = scorer_on(SimulatedExecutor(device, limits=((64, 512),), lanes=1))
    for seed in range(4):
        scorer.submit(pairs_of([512] * 64, seed), batch_size=32).wait()
    assert device.graph_works == {}
    scorer.close()


def test_more_rows_than_a_profile_takes_are_split() -> None:
    executor = SimulatedExecutor(SimulatedGpu(), limits=((4, 64), (2, 128)))
    scorer = scorer_on(executor)
    pairs = pairs_of([100] * 7)
    assert np.array_equal(scorer.submit(pairs, batch_size=32).wait(), expected(pairs))
    assert [rows for rows, _ in executor.shapes] == [2, 2, 2, 1]
    scorer.close()


def test_a_pair_longer_than_the_engine_takes_is_refused_with_what_to_do() -> None:
    scorer = scorer_on(SimulatedExecutor(SimulatedGpu()))
    with pytest.raises(ShapeError, match="up to 128: set max_length=128"):
        scorer.submit(pairs_of([129]), batch_size=32)
    scorer.close()


def test_half_precision_logits() -> None:
    scorer = scorer_on(SimulatedExecutor(SimulatedGpu(), output=np.float16))
    pairs = EncodedPairs(ids=np.array([1, 2, 3], np.int32), type_ids=np.zeros(3, np.uint8), offsets=np.array([0, 1, 3]))
    scores = scorer.submit(pairs, batch_size=32).wait()
    assert scores.dtype == np.float32
    assert scores.tolist() == [[1.0], [5.0]]
    scorer.close()


def test_an_engine_without_token_types() -> None:
    scorer = scorer_on(SimulatedExecutor(SimulatedGpu(), names=("input_ids", "attention_mask")))
    pairs = pairs_of([7])
    assert scorer.submit(pairs, batch_size=32).wait() == pairs.ids.sum()
    scorer.close()


def test_a_padded_batch_from_elsewhere_and_one_that_is_padded_in_the_middle() -> None:
    scorer = scorer_on(SimulatedExecutor(SimulatedGpu()))
    pairs = pairs_of([3, 9, 1])
    batch = Batch.padded(pairs, np.arange(3), 0)
    assert np.array_equal(scorer.run(batch), expected(pairs))
    batch.attention_mask[0, 0] = 0
    with pytest.raises(ShapeError, match="pad on the right"):
        scorer.run(batch)
    scorer.close()


def test_several_threads_share_one_scorer() -> None:
    scorer = scorer_on(SimulatedExecutor(SimulatedGpu()))
    wrong: list[int] = []

    def work(seed: int) -> None:
        for each in range(20):
            pairs = pairs_of([seed + 1, 40, 100, 7 * seed + 2], 100 * seed + each)
            if not np.array_equal(scorer.submit(pairs, batch_size=32).wait(), expected(pairs)):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    scorer.close()


def test_two_devices_share_a_request_by_tokens() -> None:
    devices = [SimulatedGpu(0), SimulatedGpu(1)]
    executors = [SimulatedExecutor(device) for device in devices]
    scorer = scorer_on(*executors)
    pairs = pairs_of([100] * 32)
    assert np.array_equal(scorer.submit(pairs, batch_size=32).wait(), expected(pairs))
    assert [sum(rows for rows, _ in executor.shapes) for executor in executors] == [16, 16]
    scorer.close()
    assert [device.left_behind for device in devices] == [[], []]


@pytest.mark.parametrize("verb", ["upload", "kernel", "download", "synchronize", "launch"])
def test_a_device_error_is_told_and_leaves_nothing_behind(verb: str) -> None:
    device = SimulatedGpu()
    scorer = scorer_on(SimulatedExecutor(device, lanes=2))
    pairs = pairs_of([50] * 80)
    for _ in range(2):
        scorer.submit(pairs, batch_size=32).wait()
    if verb in ("upload", "kernel", "download"):
        pairs = pairs_of([5] * 80)  # a shape without a graph
    device.failing = verb
    with pytest.raises(CudaError, match="open the model in a new process"):
        scorer.submit(pairs, batch_size=32).wait()
    device.failing = ""
    for stream in device.streams.values():
        stream.clear()  # what a lost context does
    pairs = pairs_of([9, 12, 80])
    assert np.array_equal(scorer.submit(pairs, batch_size=32).wait(), expected(pairs)), "the scorer goes on"
    scorer.close()
    assert device.left_behind == []


@pytest.mark.parametrize("inline", [False, True])
def test_a_finished_request_is_freed_without_the_garbage_collector(inline: bool) -> None:
    scorer = scorer_on(SimulatedExecutor(SimulatedGpu()))
    gc.disable()
    try:
        pairs = pairs_of([50] * 80)
        freed = weakref.ref(pairs.ids)
        pending = scorer.submit(pairs, batch_size=32, inline=inline)
        pending.wait()
        del pending, pairs
        end = time.monotonic() + 10
        while freed() is not None and time.monotonic() < end:
            time.sleep(0.001)  # the worker lets go of its batch a moment after the batch is done
        assert freed() is None
    finally:
        gc.enable()
    scorer.close()


def test_a_lost_device_is_told_and_keeps_nobody_from_closing(caplog: pytest.LogCaptureFixture) -> None:
    devices = [SimulatedGpu(0), SimulatedGpu(1)]
    executors = [SimulatedExecutor(device) for device in devices]
    scorer = scorer_on(*executors)
    for seed in range(3):
        for length in (5, 50):
            scorer.submit(pairs_of([length] * 40, seed), batch_size=32).wait()
    assert len(devices[0].graph_works) > 1
    devices[0].lost = True
    for _ in range(2):
        with pytest.raises(CudaError, match="context is lost; open the model in a new process"):
            scorer.submit(pairs_of([50] * 40), batch_size=32).wait()
    scorer.close()
    scorer.close()
    assert [(executor.closed, executor.contexts) for executor in executors] == [(True, 0), (True, 0)]
    assert [device.closed for device in devices] == [True, True]
    assert devices[1].left_behind == []
    assert "while closing a model on a GPU: CUDA_ERROR_ILLEGAL_ADDRESS" in caplog.text


def test_engines_of_other_shapes_are_refused_and_closed() -> None:
    executors = [SimulatedExecutor(SimulatedGpu()), SimulatedExecutor(SimulatedGpu(1), limits=((16, 64),))]
    with pytest.raises(BackendError, match="take different shapes; build them with the same profiles"):
        scorer_on(*executors)
    assert all(executor.closed and executor.cuda.closed for executor in executors)


def test_dropped_without_closing_all_is_freed() -> None:
    device = SimulatedGpu()
    executor = SimulatedExecutor(device)
    scorer = scorer_on(executor)
    for seed in range(3):
        scorer.submit(pairs_of([3, 100], seed), batch_size=32).wait()
    del scorer
    for _ in range(100):  # the worker may hold it a moment longer than its last request
        if device.closed:
            break
        gc.collect()
        time.sleep(0.02)
    assert (device.closed, executor.closed, device.left_behind) == (True, True, [])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_must_open_the_model_itself() -> None:
    device = SimulatedGpu()
    scorer = scorer_on(SimulatedExecutor(device))
    pairs = pairs_of([5, 60])
    scorer.submit(pairs, batch_size=32).wait()
    locks = scorer._lock, scorer._computing
    for lock in locks:  # as another thread might at the moment of the fork
        lock.acquire()
    child = os.fork()
    if child:
        for lock in locks:
            lock.release()
    else:
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(20)
            done = len(device.log)
            with pytest.raises(BackendError, match="open it in each process that scores"):
                scorer.submit(pairs, batch_size=32).wait()
            scorer.close()
            status = int(len(device.log) > done)
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert np.array_equal(scorer.submit(pairs, batch_size=32).wait(), expected(pairs)), "the parent goes on"
    scorer.close()
    assert device.left_behind == []


def test_a_small_request_meets_the_graphs_of_those_before() -> None:
    device = SimulatedGpu()
    scorer = scorer_on(SimulatedExecutor(device, lanes=3))
    for seed in range(5):
        pairs = pairs_of([20], seed)
        assert scorer.submit(pairs, batch_size=32).wait() == expected(pairs)
    assert device.log.count("launch") == 4, "all but the first two, and the one that proves the graph"
    scorer.close()


@pytest.mark.parametrize(("workspace", "purpose"), [(1, "for its tokens and logits"), (80_000_000, "to compute it in")])
def test_too_little_memory_is_told_at_opening_and_leaves_nothing_behind(workspace: int, purpose: str) -> None:
    device = SimulatedGpu(total=60_000 + 2 * workspace)
    said = rf"needs .* MB on the device {purpose}, .* MB are free: the device has no memory left.*--tokens"
    with pytest.raises(CudaError, match=said):
        scorer_on(SimulatedExecutor(device, workspace=workspace))
    assert device.left_behind == []
    assert device.closed


def test_closed_twice_and_used_afterwards() -> None:
    scorer = scorer_on(SimulatedExecutor(SimulatedGpu()))
    scorer.close()
    scorer.close()
    pairs = pairs_of([3])
    for call in (lambda: scorer.submit(pairs, batch_size=32), lambda: scorer.run(Batch.padded(pairs, np.arange(1), 0))):
        with pytest.raises(BackendError, match="this model is closed; open the bundle again"):
            call()
    assert scorer.closed


def test_a_request_while_the_interpreter_ends_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = scorer_on(SimulatedExecutor(SimulatedGpu()))
    with monkeypatch.context() as ending:
        ending.setattr("concurrent.futures.thread._shutdown", True)  # as Python does when the main thread has returned
        with pytest.raises(BackendError, match="this process is ending, and nothing can be scored any more"):
            scorer.submit(pairs_of([3]), batch_size=32)
    assert np.array_equal(scorer.submit(pairs_of([3]), batch_size=32).wait(), expected(pairs_of([3])))
    scorer.close()


def test_opened_and_closed_a_hundred_times_memory_is_as_before() -> None:
    used = []
    for _ in range(100):
        device = SimulatedGpu()
        scorer = scorer_on(SimulatedExecutor(device))
        scorer.submit(pairs_of([3, 4]), batch_size=32).wait()
        scorer.close()
        used.append(device.used)
    assert set(used) == {0}


def test_a_batch_of_no_rows_is_no_work() -> None:
    device = SimulatedGpu()
    scorer = scorer_on(SimulatedExecutor(device, labels=2))
    nothing = np.empty((0, 7), dtype=np.int64)
    batch = Batch(input_ids=nothing, attention_mask=nothing, token_type_ids=nothing, rows=np.arange(0))
    assert scorer.run(batch).shape == (0, 2)
    scorer.close()
