"""A request leaves the queue however it ends, a model is closed once nobody uses it, and readiness tells what a probe found."""

import asyncio
import threading
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="crossrt[serve] is not installed")

from crossrt.engine.errors import BackendError
from crossrt.server.dialects.job import Job
from crossrt.server.dialects.request_error import RequestError
from crossrt.server.http.request_body import ClientGoneError
from crossrt.server.models import served_model
from crossrt.server.models.job_scorer import JobRun
from crossrt.server.models.served_model import ServedModel

from .fake_model import Model, served


def job(count: int = 3) -> Job:
    return Job(pairs=[("q", "text")] * count)


async def nothing() -> Any:
    """What a client sends that waits for its answer."""
    await asyncio.Event().wait()


async def goodbye() -> Any:
    return {"type": "http.disconnect"}


def started(model: ServedModel, receive: Any = nothing, seconds: float = 20.0) -> "asyncio.Task[Any]":
    return asyncio.create_task(model.score(job(), receive=receive, seconds=seconds))


@pytest.mark.parametrize("end", ["scored", "late", "gone", "cancelled", "failed", "refused"])
def test_a_request_leaves_the_queue_however_it_ends(end: str) -> None:
    async def run() -> None:
        model = Model()
        scoring = await served(model)
        if end == "refused":
            model.error = RequestError("validation", "no such text")
        receive, seconds = (goodbye if end == "gone" else nothing), (0.01 if end == "late" else 20.0)
        task = started(scoring, receive, seconds)
        await asyncio.sleep(0)
        if end != "refused":
            await asyncio.sleep(0)
            assert (scoring.queue.tokens, scoring.queue.requests, len(scoring.runs)) == (30, 1, 1)
            (pending,) = model.pending
        if end in ("scored", "failed"):
            pending.finish(BackendError("out of memory") if end == "failed" else None)
        if end == "cancelled":
            task.cancel()
        if end == "scored":
            outcome, _ = await task
            assert outcome.tokens == 30
        else:
            errors = {"gone": ClientGoneError, "cancelled": asyncio.CancelledError}
            with pytest.raises(errors.get(end, RequestError)):
                await task
        assert (scoring.queue.tokens, scoring.queue.requests, len(scoring.runs)) == (0, 0, 0)
        assert (scoring.failure is None) == (end != "failed")
        assert (scoring.queue.tokens_per_second > 0) == (end == "scored")
        if end != "refused":
            assert pending.cancelled == (end in ("late", "gone", "cancelled"))
        await asyncio.wait_for(scoring.close(), 5)
        assert model.closed

    asyncio.run(run())


def test_a_request_that_is_given_up_while_it_is_submitted_is_cancelled() -> None:
    async def run() -> None:
        model = Model()
        scoring = await served(model)

        def give_up() -> None:
            (run,) = asked
            opened.give_up(run, ClientGoneError())

        model.during_submit = give_up
        with scoring._opened as opened:  # type: ignore[union-attr]
            run = JobRun(job(), opened.loop, None, 0)
            asked = [run]
            opened._prepare(run)
            with pytest.raises(ClientGoneError):
                await run.future
        assert model.pending[0].cancelled

    asyncio.run(run())


def test_as_many_texts_as_are_allowed_are_scored() -> None:
    async def run() -> None:
        model = Model()
        scoring = await served(model, max_documents=3, max_request_tokens=30)
        task = started(scoring)
        await asyncio.sleep(0.001)
        model.pending[0].finish()
        await task
        with pytest.raises(RequestError, match=r"has 4 texts, and 3 are allowed \(--max-documents\)"):
            await scoring.score(job(4), receive=nothing, seconds=20)
        assert scoring.queue.requests == 0
        few = await served(Model(), max_request_tokens=29)
        with pytest.raises(RequestError, match=r"has 30 tokens, and 29 are allowed \(--max-request-tokens\)"):
            await few.score(job(), receive=nothing, seconds=20)

    asyncio.run(run())


def test_a_request_without_any_time_left_is_not_scored() -> None:
    async def run() -> None:
        model = Model()
        scoring = await served(model)
        with pytest.raises(RequestError, match="not scored in the time"):
            await scoring.score(job(), receive=nothing, seconds=0)
        assert model.pending == []

    asyncio.run(run())


def test_a_replaced_model_is_closed_after_the_requests_that_use_it() -> None:
    async def run() -> None:
        old, new = Model(), Model()
        scoring = await served(old, new)
        first, second = started(scoring), started(scoring)
        await asyncio.sleep(0.001)
        assert await scoring.reload(force=True)
        assert scoring.model is new
        third = started(scoring)
        await asyncio.sleep(0.001)
        old.pending[0].finish()
        await first
        await asyncio.sleep(0.01)
        assert not old.closed
        old.closing_seconds = 0.02
        new.pending[0].finish()
        await third
        old.pending[1].finish()
        await second
        await scoring.close()
        assert old.closed
        assert new.closed

    asyncio.run(run())


def test_a_model_that_does_not_score_its_first_token_is_closed_and_the_old_one_stays() -> None:
    async def run() -> None:
        old, new = Model(), Model()
        new.error = BackendError("no such operator")
        scoring = await served(old, new)
        with pytest.raises(BackendError, match="no such operator"):
            await scoring.reload(force=True)
        assert new.closed
        assert not old.closed
        assert scoring.model is old

    asyncio.run(run())


def test_a_model_that_hangs_is_not_ready_until_it_scores_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        model = Model()
        scoring = await served(model)
        model.healthy = False
        assert await scoring.problem() is None, "it scored a moment ago"
        monkeypatch.setattr(served_model, "HEALTHY_SECONDS", 0.0)
        monkeypatch.setattr(served_model, "PROBE_SECONDS", 0.01)
        before = model.probes
        one, other = await asyncio.gather(scoring.problem(), scoring.problem())
        assert model.probes == before + 1
        assert one == other == "the model m did not score a token within 0.01 seconds"
        model.healthy = True
        assert await scoring.problem() is None

    asyncio.run(run())


def test_a_probe_that_is_late_does_not_blame_a_model_that_scores_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        model = Model()
        scoring = await served(model)
        model.healthy = False
        monkeypatch.setattr(served_model, "HEALTHY_SECONDS", 0.0)
        monkeypatch.setattr(served_model, "PROBE_SECONDS", 0.03)
        asked = asyncio.create_task(scoring.problem())
        await asyncio.sleep(0.02)
        task = started(scoring)
        await asyncio.sleep(0.001)
        model.pending[0].finish()
        await task
        assert await asked is None

    asyncio.run(run())


def test_a_request_that_is_given_up_while_it_is_tokenized_leaves_no_tokens_in_the_queue() -> None:
    async def run() -> None:
        model = Model()
        model.tokenized = threading.Event()
        scoring = await served(model)
        with pytest.raises(RequestError, match="not scored in the time"):
            await scoring.score(Job(pairs=[("q", "x" * 9000)] * 3), receive=nothing, seconds=0.01)
        assert (scoring.queue.tokens, scoring.queue.requests) == (0, 0)
        model.tokenized.set()
        await scoring.close()
        await asyncio.sleep(0)  # the tokens are counted in the event loop
        assert scoring.queue.tokens == 0
        assert all(pending.cancelled for pending in model.pending)

    asyncio.run(run())


def test_a_request_that_is_too_large_is_told_so_also_when_others_wait() -> None:
    async def run() -> None:
        model = Model()
        scoring = await served(model, max_request_tokens=50, max_queue_tokens=100)
        first = started(scoring)
        await asyncio.sleep(0.001)
        with pytest.raises(RequestError, match="--max-request-tokens"):
            await scoring.score(Job(pairs=[("q", "x" * 1000)] * 10), receive=nothing, seconds=20)
        model.pending[0].finish()
        await first

    asyncio.run(run())


def test_the_connection_of_a_short_request_is_not_watched() -> None:
    received: list[int] = []

    async def receive() -> Any:
        received.append(1)
        await asyncio.Event().wait()

    async def run() -> None:
        model = Model()
        scoring = await served(model)
        task = started(scoring, receive)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        model.pending[0].finish()
        await task
        await asyncio.sleep(2 * served_model.WATCH_AFTER)
        assert received == []

    asyncio.run(run())


def test_a_text_of_which_a_token_waits_is_a_waiting_text() -> None:
    async def run() -> None:
        model = Model()
        scoring = await served(model)
        task = started(scoring)
        await asyncio.sleep(0.001)
        (pending,), (asked,) = model.pending, scoring.runs
        found = []
        for pending.waiting_tokens in (30, 29, 20, 1, 0):
            found.append(asked.waiting_texts)
        assert found == [3, 3, 2, 1, 0]
        pending.finish()
        await task

    asyncio.run(run())
