"""`CpuScorer`: computes the batches of a request in parallel on the processors of a CPU."""

import contextlib
import os
import threading
import weakref
from concurrent.futures import Future
from functools import partial

import numpy as np
import numpy.typing as npt

from ..backends.base import Session
from ..batching.batch import Batch
from ..batching.plan import MAX_TOKENS, BatchPlan, plan_batches, plan_single_batch, plan_unpadded
from ..bundle.bundle import Bundle
from ..closable import Closable
from ..errors import BackendError, BundleError, CrossrtError
from ..hardware.cpus import CORES
from ..process.forks import OPENING, keep_for_ever
from ..selection.execution_config import CpuConfig
from ..text.encoded_pairs import EncodedPairs
from .cpu_workers import CpuBatch, CpuWorkers
from .fair_queue import WaitingBatch
from .pending import Pending


class CpuScorer(Closable):
    """Owns a model's sessions and the threads that call them. Any number of threads may submit requests, which take turns.

    The narrow session computes one batch per stream, usually on one processor. That is faster than one batch at a time on all
    processors, because the threads of one batch wait for each other at every operator (docs/decisions/0010).

    A request with fewer pairs than streams would leave processors idle, so the wide session computes it as a single batch on all
    processors. While other batches are computed, the narrow session computes such a request too, since the wide one would have
    to wait until all processors are idle. The first such request opens the wide session in the background, for later requests.

    A forked process inherits no threads, so it opens the model again when it first scores. See docs/processes.md.
    """

    # The largest chunk: tokenizing takes little time, and sorting more pairs by length leaves less padding.
    first_chunk = 8192

    def __init__(self, bundle: Bundle, config: CpuConfig) -> None:
        """Open the model. Raises BundleError or BackendError if the backend cannot open it."""
        self.config = config
        self.tokenizing_threads = config.threads
        self._bundle = bundle
        self._sessions: dict[bool, Session] = {}
        """False: the narrow session. True: the wide one. The keys of `_workers` are the same."""
        self._widening: Future[Session] | None = None
        self._lock, self._opening = threading.Lock(), threading.Lock()
        """`_lock` guards submitting and closing, `_opening` the sessions."""
        self._workers = self._new_workers()
        self._session(wide=False)
        OPENED.add(self)

    @property
    def max_length(self) -> int:
        """Tokens of the longest pair that the model takes."""
        return self._bundle.manifest.max_positions

    def submit(self, pairs: EncodedPairs, *, batch_size: int, inline: bool = False, priority: int = 0) -> Pending:
        """Start to score a request; see `Scorer.submit`. A batch has at most `batch_size` rows, and at most the config's.

        `inline` has no effect: the scorer's own threads compute.
        """
        few = 0 < len(pairs) < self.config.streams
        batch_size = min(batch_size, self.config.batch_size)
        wide = few and len(pairs) <= batch_size and True in self._sessions and self._idle
        logits = np.empty((len(pairs), self._bundle.manifest.labels), dtype=np.float32)
        batches = self._batches(self._session(wide=wide), pairs, self._plan(pairs, batch_size, single=wide), logits)
        with self._lock:
            self.check_open()
            self._workers[wide].submit(batches, priority=priority)
            if few and self._widening is None:
                with contextlib.suppress(BackendError):  # the narrow session serves small requests too, only slower
                    self._widening = self._workers[True].call(partial(self._session, wide=True))
        return Pending([batch.future for batch in batches], [batch.tokens for batch in batches], logits)

    def run(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Compute one padded batch on all processors, in the caller's thread. See `Session.run`."""
        session = self._session(wide=self.config.streams > 1)
        with CORES.reserved(session.threads):
            return session.run(batch)

    def wait_until_wide(self, timeout: float | None = None) -> None:
        """Wait until the wide session that a small request asked for is open; return at once if no request did.

        Requests never wait for it. This is for tests and benchmarks, which need to know which session computes. Raises what
        opening it raised, and TimeoutError after `timeout` seconds.
        """
        if self._widening is not None:
            self._widening.result(timeout)

    def close(self) -> None:
        """Cancel the batches that wait, wait for those that are being computed, then free the sessions.

        May be called again, from any thread.
        """
        with self._lock:
            self._closed = True
        for workers in self._workers.values():
            workers.close()
        with OPENING:
            for session in self._sessions.values():
                session.close()

    def start_anew_after_fork(self) -> None:
        """Drop the parent's sessions and threads. Freeing them would wait for threads that this process does not have."""
        for inherited in (self._sessions, self._workers, self._widening):
            keep_for_ever(inherited)
        self._sessions, self._widening = {}, None
        self._lock, self._opening = threading.Lock(), threading.Lock()
        self._workers = self._new_workers()

    def _plan(self, pairs: EncodedPairs, batch_size: int, *, single: bool) -> BatchPlan:
        max_length, streams = self._bundle.manifest.max_positions, self.config.streams
        if single:
            return plan_single_batch(pairs.lengths, bucket_up_to=max_length)
        if self.config.native:
            return plan_unpadded(pairs.lengths, batch_size=batch_size, streams=streams)
        return plan_batches(
            pairs.lengths, batch_size=batch_size, streams=streams, max_tokens=MAX_TOKENS, bucket_up_to=max_length
        )

    def _batches(
        self, session: Session, pairs: EncodedPairs, plan: BatchPlan, logits: npt.NDArray[np.float32]
    ) -> list[CpuBatch]:
        futures: list[Future[int]] = [Future() for _ in plan.row_groups]
        return [
            WaitingBatch(
                work=partial(self._compute, session, pairs, rows, width, logits),
                tokens=int(plan.lengths[rows].sum()),
                future=future,
                request=futures,
            )
            for rows, width, future in zip(plan.row_groups, plan.widths, futures, strict=True)
        ]

    def _compute(
        self,
        session: Session,
        pairs: EncodedPairs,
        rows: npt.NDArray[np.int64],
        width: int,
        logits: npt.NDArray[np.float32],
    ) -> int:
        """Compute one batch into its rows of the request's `logits`; return how many rows it has."""
        scores = session.score(pairs, rows, width)
        if scores.shape != (len(rows), logits.shape[1]):
            raise BundleError(
                f"the model of {self._bundle.path} gives logits {list(scores.shape)} for {len(rows)} pairs, and its manifest "
                f"says {logits.shape[1]} labels; export the bundle again"
            )
        logits[rows] = scores
        return len(rows)

    @property
    def _idle(self) -> bool:
        return CORES.idle and all(workers.empty for workers in self._workers.values())

    def _new_workers(self) -> dict[bool, CpuWorkers]:
        threads, streams = self.config.threads, self.config.streams
        return {False: CpuWorkers(streams, max(1, threads // streams)), True: CpuWorkers(1, threads)}

    def _opened(self, threads: int, streams: int) -> Session:
        """Open a session of the scorer's bundle. Raises ReplacedError if another bundle has taken its place."""
        try:
            session = self.config.open(self._bundle, threads=threads, streams=streams)
        except CrossrtError:
            self._bundle.check_same()  # raises ReplacedError if that is the cause
            raise
        try:
            self._bundle.check_same()
        except BundleError:
            session.close()
            raise
        return session

    def _session(self, *, wide: bool) -> Session:
        self.check_open()
        # Checked without the lock, which a thread may hold for seconds while it opens the other session.
        if wide in self._sessions:
            return self._sessions[wide]
        with self._opening:
            self.check_open()
            if wide not in self._sessions:
                threads = self._workers[wide].processors
                with OPENING:
                    self._sessions[wide] = self._opened(threads, 1 if wide else self.config.streams)
            return self._sessions[wide]


OPENED: "weakref.WeakSet[CpuScorer]" = weakref.WeakSet()
"""All scorers of this process. A forked process resets them."""


def _after_fork() -> None:
    for scorer in OPENED:
        scorer.start_anew_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
