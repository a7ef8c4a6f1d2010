"""`CpuScorer`: the batches of a request computed side by side, one on each processor."""

import contextlib
import os
import threading
import weakref
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from ..backends.base import Session
from ..batching.batch import Batch
from ..batching.plan import plan_batches, plan_single_batch, plan_unpadded
from ..bundle.bundle import Bundle
from ..errors import BackendError, BundleError
from ..hardware.cpus import CORES
from ..process.forks import OPENING, keep_for_ever
from ..text.encoded_pairs import EncodedPairs
from .execution_config import CpuConfig
from .pending import Pending, submitted


class CpuScorer:
    """Owns a model's sessions and the threads that call them; any number of threads may start requests.

    A stream is one batch on one processor. Two streams do more than one batch on two processors, since their threads
    never wait for one another; only a request of fewer pairs than streams would leave processors idle, and is computed
    a batch at a time by all of them. That needs a wide session of its own, which is opened beside the first such
    request, for those that follow.

    A process that is forked opens the model anew when it scores: threads do not come along. See docs/processes.md.
    """

    first_chunk = 8192  # tokenizing takes a small part of computing, and sorting more pairs leaves less padding

    def __init__(self, bundle: Bundle, config: CpuConfig) -> None:
        """Open the model. Raises BundleError or BackendError when the backend cannot."""
        self.config = config
        self.tokenizing_threads = config.threads
        self._bundle = bundle
        self._closed = False
        self._sessions: dict[bool, Session] = {}
        """By whether they are wide."""
        self._widening: Future[Session] | None = None
        self._lock, self._opening = threading.Lock(), threading.Lock()
        self._executor = self._threads()
        self._session(wide=False)
        OPENED.add(self)

    @property
    def longest(self) -> int:
        """Tokens of the longest pair that the model takes."""
        return self._bundle.manifest.max_positions

    def submit(self, pairs: EncodedPairs, *, batch_size: int, inline: bool = False) -> Pending:
        """Begin to score a request in batches of at most `batch_size` rows, and of the config's. See `Pending`."""
        manifest = self._bundle.manifest
        logits = np.empty((len(pairs), manifest.labels), dtype=np.float32)
        streams = self.config.streams
        few = 0 < len(pairs) < streams
        batch_size = min(batch_size, self.config.batch_size)
        wide = self._sessions.get(True) if few and len(pairs) <= batch_size else None
        session = wide or self._session(wide=False)
        longest = manifest.max_positions
        if wide:
            made = plan_single_batch(pairs.lengths, few_shapes_to=longest)
        elif self.config.native:
            made = plan_unpadded(pairs.lengths, batch_size=batch_size, streams=streams)
        else:
            made = plan_batches(pairs.lengths, batch_size=batch_size, streams=streams, few_shapes_to=longest)

        def score(rows: npt.NDArray[np.int64], width: int) -> int:
            with CORES.taken(session.threads):
                found = session.score(pairs, rows, width)
            if found.shape != (len(rows), manifest.labels):
                raise BundleError(
                    f"the model of {self._bundle.path} gives logits {list(found.shape)} for {len(rows)} pairs, and its manifest "
                    f"says {manifest.labels} labels; export the bundle again"
                )
            logits[rows] = found
            return len(rows)

        futures: list[Future[int]] = []
        pending = Pending(futures, logits)
        with self._lock:
            self._check_open()
            try:
                for rows, width in zip(made.row_groups, made.widths, strict=True):
                    futures.append(submitted(self._executor, score, rows, width))
            except BackendError:
                pending.cancel()
                raise
            if few and self._widening is None:
                with contextlib.suppress(BackendError):  # without it small requests are served too, only slower
                    self._widening = submitted(self._executor, self._session, wide=True)
        return pending

    def run(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Compute one batch that was padded elsewhere, on all processors. See `Session.run`."""
        session = self._session(wide=self.config.streams > 1)
        with CORES.taken(session.threads):
            return session.run(batch)

    def close(self) -> None:
        """Wait for what is being computed, then free the sessions. May be called again."""
        with self._lock:
            self._closed = True
        self._executor.shutdown(cancel_futures=True)
        with OPENING:
            for session in self._sessions.values():
                session.close()

    def start_anew_after_fork(self) -> None:
        """Forget the parent's sessions and threads, and free none of them."""
        for inherited in (self._sessions, self._executor, self._widening):
            keep_for_ever(inherited)
        self._sessions, self._widening = {}, None
        self._lock, self._opening = threading.Lock(), threading.Lock()
        self._executor = self._threads()

    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.config.streams, thread_name_prefix="crossrt")

    def _session(self, *, wide: bool) -> Session:
        with self._opening:
            self._check_open()
            if wide not in self._sessions:
                config = self.config
                threads, streams = (config.threads, 1) if wide else (config.threads // config.streams, config.streams)
                with OPENING:
                    self._sessions[wide] = config.open(self._bundle, threads=max(1, threads), streams=streams)
            return self._sessions[wide]

    def _check_open(self) -> None:
        if self._closed:
            raise BackendError("this model is closed; open the bundle again")


OPENED: "weakref.WeakSet[CpuScorer]" = weakref.WeakSet()


def _after_fork() -> None:
    for streams in OPENED:
        streams.start_anew_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
