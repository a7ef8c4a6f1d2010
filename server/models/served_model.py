"""`ServedModel`: a named model with its queue and its health, which can be replaced while requests are served."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from time import monotonic
from typing import Any

from ...engine.errors import CrossrtError
from ..dialects.job import Job, Outcome
from ..dialects.request_error import RequestError
from ..http.request_body import ClientGoneError, Receive
from .estimate import estimated_tokens
from .job_scorer import JobRun, JobScorer, Model
from .model_settings import ModelSettings
from .token_queue import TokenQueue

logger = logging.getLogger("crossrt.server")

PROBE = Job(pairs=[("a", "b")], scores="raw_labels", priority=-(2**31))
"""The job of a readiness probe: a pair of one-letter texts, which is served before all other jobs."""
PROBE_SECONDS = 10.0
HEALTHY_SECONDS = 5.0
"""How long a successful request shows that the model works, so that no probe is needed."""
WATCH_AFTER = 0.005
"""Seconds after which watching a request's connection begins. Most requests to a small model are done by then."""

Opener = Callable[[ModelSettings], Model]


class OpenModel:
    """An open model, and the number of requests that use it."""

    def __init__(self, model: Model, settings: ModelSettings) -> None:
        self.model = model
        self.labels = model.label_names or tuple(f"LABEL_{number}" for number in range(model.num_labels))
        """The names of the model's labels. Labels without names are called LABEL_0, LABEL_1 and so on, as in transformers."""
        self.scoring = JobScorer(model, settings)
        self._users = 0
        self._closing: asyncio.Future[None] | None = None

    def __enter__(self) -> JobScorer:
        self._users += 1
        return self.scoring

    def __exit__(self, *error: object) -> None:
        self._users -= 1
        if self._closing is not None and not self._users and not self._closing.done():
            self._closing.set_result(None)

    async def close(self) -> None:
        """Free the model once no request uses it."""
        if self._users:
            if self._closing is None:  # otherwise another call waits already
                self._closing = self.scoring.loop.create_future()
            await self._closing
        await asyncio.to_thread(self.scoring.close)


class ServedModel:
    """Scores jobs with a model. Each model name has one instance. All methods are called in the event loop."""

    def __init__(self, settings: ModelSettings, opener: Opener) -> None:
        self.settings = settings
        self.name = settings.name
        self.queue = TokenQueue(settings.limits.max_queue_tokens)
        self.failure: str | None = None
        """Why the model's last request failed, or None if it was scored."""
        self.runs: set[JobRun] = set()
        """The jobs of the requests that were accepted and are not scored yet."""
        self._opener = opener
        self._opened: OpenModel | None = None
        self._version: object = None
        self._last_success = float("-inf")
        self._probe: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()

    @property
    def model(self) -> Model:
        """The model that is served now."""
        assert self._opened is not None
        return self._opened.model

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the model's labels."""
        assert self._opened is not None
        return self._opened.labels

    # -- opening

    async def open(self) -> None:
        """Open the model and score `PROBE` with it. Raises the errors of opening and scoring."""
        version = _version(self.settings.bundle)
        model = await asyncio.to_thread(self._opener, self.settings)
        opened = OpenModel(model, self.settings)
        try:
            await asyncio.wait_for(opened.scoring.start(PROBE).future, None)
        except BaseException:
            await opened.close()
            raise
        before, self._opened, self._version = self._opened, opened, version
        self._succeeded()
        if before is not None:
            self._later(before.close())

    async def reload(self, *, force: bool = False) -> bool:
        """Open the bundle again if it was replaced, or in any case with `force`, and serve it from then on.

        Requests that are being scored finish with the old model. Tell whether the bundle was opened. Raises the errors of `open`,
        and then the old model stays in use.
        """
        if not force and self._version is not None and self._version == _version(self.settings.bundle):
            return False
        await self.open()
        return True

    async def close(self) -> None:
        """Free the model after the requests that are being scored."""
        if self._opened is not None:
            await self._opened.close()
        await asyncio.gather(*self._background, return_exceptions=True)

    # -- scoring

    async def score(self, job: Job, *, receive: Receive, seconds: float) -> tuple[Outcome, JobRun]:
        """Score a job within `seconds` seconds.

        Raises RequestError for a job that is refused or too late or makes the model fail, and ClientGoneError if the client
        closes the connection.
        """
        if len(job.pairs) > self.settings.limits.max_documents:
            raise RequestError(
                "validation",
                f"the request has {len(job.pairs)} texts, and {self.settings.limits.max_documents} are allowed "
                "(--max-documents); send fewer at a time",
            )
        if seconds <= 0:
            raise _too_late()
        assert self._opened is not None
        # A job with more tokens is refused once they are counted. If the queue refused it, the client would be told to try again.
        tokens = min(estimated_tokens(job, self.model.max_length), self.settings.limits.max_request_tokens)
        self.queue.admit(tokens)
        scored = 0
        with self._opened as scoring:
            run = scoring.start(job, self.queue, tokens)
            self.runs.add(run)
            try:
                outcome = await _awaited(scoring, run, receive, seconds)
                scored = outcome.tokens
                self._succeeded()
                return outcome, run
            except (RequestError, ClientGoneError, asyncio.CancelledError):
                raise
            except BaseException as error:
                raise self._failed(error) from error
            finally:
                self.runs.discard(run)
                self.queue.release(run.tokens, scored=scored)

    # -- health

    async def problem(self) -> str | None:
        """Return why the model cannot score, or None if a request was scored a moment ago or a probe is scored now."""
        if self.failure is None and monotonic() - self._last_success < HEALTHY_SECONDS:
            return None
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._run_probe())
        await asyncio.shield(self._probe)
        return self.failure

    async def _run_probe(self) -> None:
        assert self._opened is not None
        with self._opened as scoring:
            run = scoring.start(PROBE)
            try:
                await asyncio.wait_for(run.future, PROBE_SECONDS)
                self._succeeded()
            except TimeoutError:
                if monotonic() - self._last_success >= PROBE_SECONDS:
                    self.failure = f"the model {self.name} did not score a token within {PROBE_SECONDS:g} seconds"
            except Exception as error:
                self._failed(error)

    def _succeeded(self) -> None:
        self.failure = None
        self._last_success = monotonic()

    def _failed(self, error: BaseException) -> RequestError:
        """Note why the model failed, and return the error for the client."""
        words = str(error) if isinstance(error, CrossrtError) else f"{type(error).__name__}: {error}"
        self.failure = f"the model {self.name} failed: {words}"
        logger.error(self.failure, exc_info=None if isinstance(error, CrossrtError) else error)
        return RequestError("unhealthy", self.failure, retry_after=self.queue.wait)

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


async def _awaited(scoring: JobScorer, run: JobRun, receive: Receive, seconds: float) -> Outcome:
    """Wait for a job until it is done, its time is over or its client has gone."""
    watch = JobWatch(scoring, run, receive, seconds)
    try:
        return await run.future
    except asyncio.CancelledError:
        scoring.give_up(run, ClientGoneError())
        raise
    finally:
        watch.end()


class JobWatch:
    """Gives a job up when its time is over or its client has gone. A short job costs only a timer: see `WATCH_AFTER`."""

    __slots__ = ("_receive", "_run", "_scoring", "_seconds", "_task", "_timer")

    def __init__(self, scoring: JobScorer, run: JobRun, receive: Receive, seconds: float) -> None:
        self._scoring, self._run, self._receive, self._seconds = scoring, run, receive, seconds
        self._task: asyncio.Task[None] | None = None
        self._timer = scoring.loop.call_later(WATCH_AFTER, self._begin)

    def end(self) -> None:
        """Stop watching."""
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _begin(self) -> None:
        loop = self._scoring.loop
        self._task = loop.create_task(self._until_gone())
        self._timer = loop.call_later(max(0.0, self._seconds - WATCH_AFTER), self._late)

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._scoring.give_up(self._run, ClientGoneError())

    def _late(self) -> None:
        self._scoring.give_up(self._run, _too_late())


def _too_late() -> RequestError:
    return RequestError(
        "deadline",
        "the request was not scored in the time that it had (--request-timeout, or the header x-request-timeout); send fewer "
        "texts, or try again later",
    )


def _version(bundle: str) -> object:
    """Return what identifies a bundle's manifest file, which changes when the bundle is replaced.

    Returns None for a source that is not a bundle on disk.
    """
    try:
        stat = (Path(bundle).expanduser() / "manifest.json").stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
