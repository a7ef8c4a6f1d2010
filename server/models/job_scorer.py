"""`JobScorer` passes jobs to an open model and returns their scores to the event loop.

Large jobs are tokenized in threads and in pieces, so that they block neither the event loop nor smaller jobs. A small job is
tokenized in the event loop, because that takes less time than passing it to a thread. The model's scorer lets jobs take turns.
When nobody waits for a job any more, its tokenization stops and its batches that have not begun are cancelled, also those of
`exact` and `windows`.
"""

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import ceil, isfinite
from queue import PriorityQueue
from time import perf_counter
from typing import Any, Protocol, TypeAlias, cast

import numpy as np

from ...engine.activation import Floats, sigmoid, softmax
from ...engine.errors import BundleError, InputError, OptionError, ReplacedError, ShapeError
from ...engine.labels import need_label
from ...engine.runtime.cancellation import Cancellation
from ...engine.scores import raw_relevance
from ...engine.text.encoded_pairs import EncodedPairs
from ...engine.text.text_limits import TextLimits
from ...engine.text.windows import WindowCounts, Windows
from ..dialects.job import Job, Outcome, Pair
from ..dialects.request_error import RequestError
from .estimate import SMALL_CHARACTERS
from .model_settings import ModelSettings
from .token_queue import TokenQueue
from .tokenizer_pool import TokenizerPool, piece_end

INLINE_CHARACTERS = SMALL_CHARACTERS
"""Most characters of a job that is tokenized in the event loop's thread.

crossrt's own tokenizer takes 0.15 ms for this many, Hugging Face's 2 ms. Passing the job to a thread of the pool and back, with a
future and a wake-up of the event loop, takes about 0.03 ms.
"""
RANKING_THREADS = 64
"""Most jobs with `exact` or `windows` that are scored at the same time. Each occupies a thread, which mostly waits for the
scorer. When all threads are occupied, even an urgent job waits for one."""


Tokenized: TypeAlias = EncodedPairs | WindowCounts
"""A job's tokens, or only their number for a job with `windows`. The texts of such a job are tokenized again when they are
scored, because their tokens would take much memory while the job waits, and tokenization is a small part of the work."""


class Submitted(Protocol):
    """The part of `Pending` that the server uses."""

    @property
    def waiting_tokens(self) -> int:
        """See `Pending.waiting_tokens`."""

    def wait(self) -> Floats:
        """See `Pending.wait`."""

    def cancel(self, *, wait: bool = True) -> None:
        """See `Pending.cancel`."""

    def add_done_callback(self, function: Callable[[Any], object]) -> None:
        """See `Pending.add_done_callback`."""


class Model(Protocol):
    """The part of `CrossEncoder` that the server uses."""

    @property
    def device(self) -> str:
        """The device: `cpu`, or a GPU."""

    @property
    def max_length(self) -> int:
        """Longest pair in tokens."""

    @property
    def num_labels(self) -> int:
        """Number of labels."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the labels, or an empty tuple if they have none."""

    @property
    def relevant_label(self) -> int | None:
        """The label to rank by."""

    def encode(self, pairs: Sequence[tuple[str, str]], *, limits: TextLimits | None = None) -> EncodedPairs:
        """See `CrossEncoder.encode`."""

    def count_windows(
        self, pairs: Sequence[tuple[str, str]], windows: Windows, *, limits: TextLimits | None = None
    ) -> WindowCounts:
        """See `CrossEncoder.count_windows`."""

    def submit(self, pairs: EncodedPairs, *, batch_size: int, priority: int) -> Submitted:
        """See `CrossEncoder.submit`."""

    def rank(self, query: str, documents: list[str], **options: Any) -> list[dict[str, Any]]:
        """See `CrossEncoder.rank`."""

    def relevance(self, logits: Floats) -> Floats:
        """See `CrossEncoder.relevance`."""

    def check_finite(self, logits: Floats) -> None:
        """See `CrossEncoder.check_finite`."""

    def close(self) -> None:
        """See `CrossEncoder.close`."""


class JobRun:
    """A job that is being scored. `future` belongs to the event loop. Only one thread at a time writes the other attributes.

    `tokens` is the number of tokens that the queue counts for the job. `pieces` are the tokenized parts of a large job, and
    `next` is the index of the pair at which the next piece begins. `text` has all tokens. Times are those of `perf_counter`: when
    the job was `accepted`, when its tokenization `began` and ended (`tokenized`), and when it was `done`.
    """

    __slots__ = (
        "abandoned",
        "accepted",
        "began",
        "cancellation",
        "done",
        "future",
        "job",
        "next",
        "pending",
        "pieces",
        "queue",
        "text",
        "tokenized",
        "tokens",
    )

    def __init__(self, job: Job, loop: asyncio.AbstractEventLoop, queue: TokenQueue | None, tokens: int) -> None:
        """Take an estimate of the tokens, which `queue` has admitted. Without a queue nothing is counted."""
        self.job = job
        self.future: asyncio.Future[Outcome] = loop.create_future()
        self.queue = queue
        self.tokens = tokens
        self.text: Tokenized | None = None
        self.pieces: list[Tokenized] | None = None
        self.next = 0
        self.pending: Submitted | None = None
        several = job.exact or job.windows is not None
        self.cancellation = Cancellation() if several else None
        """Cancels a job with `exact` or `windows`, which takes several requests to the model. None for other jobs."""
        self.abandoned = False
        self.accepted = perf_counter()
        self.began = self.tokenized = self.done = 0.0

    @property
    def waiting_texts(self) -> int:
        """Number of the job's texts in batches that have not begun, estimated by their share of the tokens.

        A job with `exact` or `windows` counts as begun when it is tokenized. How many of its texts wait is not known.
        """
        texts, pending, text = len(self.job.pairs), self.pending, self.text
        if self.cancellation is not None:
            return 0 if self.tokenized else texts
        if pending is None or not isinstance(text, EncodedPairs) or not len(text.ids):
            return texts
        return ceil(texts * pending.waiting_tokens / len(text.ids))

    def count(self, tokens: int) -> None:
        """Replace the estimate with the number of tokens. Called in the event loop."""
        if self.queue is not None and not self.future.done():
            self.queue.correct(self.tokens, tokens)
            self.tokens = tokens

    def settle(self, outcome: Outcome | BaseException) -> None:
        """Set the outcome or the error of the future. Called in the event loop."""
        if self.future.done():
            return
        if isinstance(outcome, Outcome):
            self.future.set_result(outcome)
        else:
            self.future.set_exception(outcome)


class JobScorer:
    """Scores jobs with one open model. Methods without a leading underscore are called in the event loop."""

    def __init__(self, model: Model, settings: ModelSettings) -> None:
        self.model = model
        self.loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._settings = settings
        self._tokenizer_pool = TokenizerPool(self._prepare_piece)
        self._ranking = ThreadPoolExecutor(RANKING_THREADS, thread_name_prefix="crossrt-rank")
        self._to_rank: PriorityQueue[tuple[int, int, JobRun]] = PriorityQueue()
        """Jobs with `exact` or `windows` that wait for a thread, by priority and then by arrival."""
        self._numbers = itertools.count()

    def start(self, job: Job, queue: TokenQueue | None = None, tokens: int = 0) -> JobRun:
        """Start to score a job, for which `queue` has admitted about `tokens` tokens."""
        run = JobRun(job, self.loop, queue, tokens)
        if job.characters <= INLINE_CHARACTERS:
            self._prepare(run)
        else:
            try:
                self._tokenizer_pool.add(run, priority=job.priority, now=run.accepted, characters=job.characters)
            except RuntimeError as error:  # the system allows no more threads
                self.give_up(run, error)
        return run

    def give_up(self, run: JobRun, error: BaseException) -> None:
        """Raise `error` in the code that waits for a job, and cancel what is not computed yet."""
        run.abandoned = True
        run.settle(error)
        if run.cancellation is not None:
            run.cancellation.cancel()
        if run.pending is not None:
            run.pending.cancel(wait=False)

    def _finish(self, run: JobRun) -> None:
        """Settle a job whose logits are computed. Called in the event loop."""
        if run.abandoned:
            return
        assert run.pending is not None
        run.done = perf_counter()
        try:
            outcome: Outcome | BaseException = self._outcome(run, run.pending.wait())
        except BaseException as error:
            outcome = _as_refusal(error)
        run.settle(outcome)

    def close(self) -> None:
        """Wait for the jobs that are being computed, then free the model."""
        self._tokenizer_pool.close()  # first, because it passes jobs to `_ranking`
        self._ranking.shutdown()
        self.model.close()

    # -- in threads

    def _prepare(self, run: JobRun) -> None:
        """Tokenize a job and submit it to the model."""
        try:
            run.began = perf_counter()
            self._score(run, self._tokenize(run.job, run.job.pairs))
        except BaseException as error:
            self._tell(run.settle, _as_refusal(error))

    def _prepare_piece(self, run: JobRun) -> bool:
        """Tokenize the next piece of a job, and submit all to the model after the last piece. Tell whether no piece is left."""
        if run.abandoned:
            run.pieces = None
            return True
        try:
            pairs, begin = run.job.pairs, run.next
            if run.pieces is None:
                run.began, run.pieces = perf_counter(), []
            run.next = piece_end(pairs, begin)
            run.pieces.append(self._tokenize(run.job, pairs[begin : run.next]))
            if run.next < len(pairs):
                self._check_tokens(run.job, sum(map(_tokens, run.pieces)), more=True)
                return False
            pieces, run.pieces = run.pieces, None
            self._score(run, _joined(pieces))
        except BaseException as error:
            self._tell(run.settle, _as_refusal(error))
        return True

    def _tokenize(self, job: Job, pairs: Sequence[Pair]) -> Tokenized:
        if job.windows is None:
            return self.model.encode(pairs, limits=job.limits)
        return self.model.count_windows(pairs, job.windows, limits=job.limits)

    def _score(self, run: JobRun, text: Tokenized) -> None:
        """Submit the tokenized job to the model. Raises RequestError for a job that is too large."""
        run.text, run.tokenized = text, perf_counter()
        tokens = _tokens(text)
        self._check_tokens(run.job, tokens)
        self._check_length(run.job, text)
        self._tell(run.count, tokens)
        if run.cancellation is not None:
            self._to_rank.put((run.job.priority, next(self._numbers), run))
            try:
                self._ranking.submit(self._rank_next)
            except RuntimeError:  # the system allows no more threads
                run.abandoned = True  # it stays in the queue, but must not be computed
                raise
        else:
            assert isinstance(text, EncodedPairs)
            self._submit(run, text)

    def _submit(self, run: JobRun, encoded: EncodedPairs) -> None:
        pending = self.model.submit(encoded, batch_size=self._settings.batch_size, priority=run.job.priority)
        run.pending = pending
        if run.abandoned:  # `give_up` was called during `submit`, when `pending` was not set yet
            pending.cancel(wait=False)
        pending.add_done_callback(lambda _: self._tell(self._finish, run))

    def _check_tokens(self, job: Job, tokens: int, *, more: bool = False) -> None:
        """Raise RequestError for a job with too many tokens. `more` says that the job has more tokens than these."""
        most = self._settings.limits.max_request_tokens
        if tokens > most:
            where, way_out = ("", "") if job.windows is None else (" in its windows", ", or a larger `stride`")
            raise RequestError(
                "validation",
                f"the request has {'more than ' if more else ''}{tokens} tokens{where}, and {most} are allowed "
                f"(--max-request-tokens); send fewer texts at a time{way_out}",
            )

    def _check_length(self, job: Job, text: Tokenized) -> None:
        """Raise RequestError for a job with texts that are too long if they may not be truncated."""
        allowed = self._settings.limits.truncate if job.truncate is None else job.truncate
        if allowed or text.cut is None or not text.cut.any():
            return
        longest = int(np.argmax(text.cut))
        if isinstance(text, WindowCounts):
            raise RequestError(
                "validation",
                f"text {longest} has {text.cut[longest]} tokens too many for `max_tokens_per_doc` and `max_tokens_per_query`; "
                "leave them out, or allow truncation",
            )
        most = self.model.max_length if job.limits.pair is None else min(job.limits.pair, self.model.max_length)
        raise RequestError(
            "validation",
            f"text {longest} has {int(text.lengths[longest] + text.cut[longest])} tokens with its query, and this model "
            f"takes {most}; allow truncation, or send `window`, which scores long texts in pieces",
        )

    def _rank_next(self) -> None:
        """Score the waiting job with `exact` or `windows` that has the lowest priority number."""
        _, _, run = self._to_rank.get()
        if run.abandoned:
            return
        try:
            outcome: Outcome | BaseException = self._ranked(run)
        except ReplacedError as error:  # FP32 was not open yet, and would now be opened from another bundle
            outcome = RequestError("unhealthy", f"{error}; SIGHUP lets crossrt serve do so")
        except BundleError as error:  # the bundle lacks an FP32 model or the score error, and `exact` needs both
            outcome = RequestError("validation", str(error))
        except BaseException as error:
            outcome = _as_refusal(error)
        run.done = perf_counter()
        self._tell(run.settle, outcome)

    def _ranked(self, run: JobRun) -> Outcome:
        job, text = run.job, run.text
        assert text is not None
        tokens = {"encoded": text} if isinstance(text, EncodedPairs) else {"windows": job.windows, "limits": job.limits}
        found = self.model.rank(
            job.pairs[0][0],
            [text for _, text in job.pairs],
            top_k=job.top,
            exact=bool(job.exact),
            activation_fn="identity",
            batch_size=self._settings.batch_size,
            show_progress_bar=False,
            priority=job.priority,
            cancellation=run.cancellation,
            **tokens,
        )
        relevance = np.array([each["score"] for each in found], dtype=np.float32)
        cut = text.cut
        return Outcome(
            rows=[each["corpus_id"] for each in found],
            relevance=relevance.tolist(),
            scores=(relevance if job.scores == "raw" else sigmoid(relevance)).tolist(),
            spans=None if job.windows is None else [each["window"] for each in found],
            tokens=_tokens(text),
            cut=0 if cut is None else int(np.count_nonzero(cut)),
            lost=0 if cut is None else int(cut.sum()),
        )

    def _outcome(self, run: JobRun, logits: Floats) -> Outcome:
        """Return the outcome of a job without `exact` and `windows`. Raises BackendError for non-finite logits."""
        encoded, kind = run.text, run.job.scores
        assert isinstance(encoded, EncodedPairs)
        outcome = Outcome(tokens=len(encoded.ids))
        if kind == "labels" or kind == "raw_labels":
            self.model.check_finite(logits)
            outcome.labels = (logits if kind == "raw_labels" else _probabilities(logits)).tolist()
        else:
            relevance = self._relevance(logits)
            outcome.relevance = relevance.tolist()
            if not isfinite(sum(outcome.relevance)):
                self.model.check_finite(logits)
            if kind == "raw":
                outcome.scores = outcome.relevance
            else:
                outcome.scores = (sigmoid(relevance) if kind == "sigmoid" else self.model.relevance(logits)).tolist()
        cut = encoded.cut
        if cut is not None and (lost := int(np.add.reduce(cut))):
            outcome.cut, outcome.lost = int(np.count_nonzero(cut)), lost
        return outcome

    def _relevance(self, logits: Floats) -> Floats:
        model = self.model
        if model.num_labels == 1:
            return logits[:, 0]
        return raw_relevance(logits, need_label(model.relevant_label, model.label_names, model.num_labels))

    def _tell(self, function: Callable[[Any], None], value: Any) -> None:
        """Call a function in the event loop."""
        if self._thread == threading.get_ident():
            function(value)
            return
        with contextlib.suppress(RuntimeError):  # the event loop is closed
            self.loop.call_soon_threadsafe(function, value)


def _probabilities(logits: Floats) -> Floats:
    return softmax(logits) if logits.shape[1] > 1 else sigmoid(logits)


def _tokens(text: Tokenized) -> int:
    """Return the number of tokens that are scored. Tokens in several windows count each time."""
    return len(text.ids) if isinstance(text, EncodedPairs) else int(text.tokens.sum())


def _joined(pieces: Sequence[Tokenized]) -> Tokenized:
    """Join the tokens of all pieces of a job. The pieces are of one type."""
    counts = [piece for piece in pieces if isinstance(piece, WindowCounts)]
    return WindowCounts.joined(counts) if counts else EncodedPairs.joined(cast(Sequence[EncodedPairs], pieces))


def _as_refusal(error: BaseException) -> BaseException:
    """Return a client's error as a RequestError. Other errors are the model's and are returned unchanged."""
    return RequestError("validation", str(error)) if isinstance(error, (InputError, OptionError, ShapeError)) else error
