"""`Streams`: the batches of a request computed side by side, one on each processor."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from .bundle import Bundle
from .cpus import CORES
from .errors import BackendError
from .plan import Batch, plan
from .session import Session, Setup
from .template import EncodedPairs


class Pending:
    """A request that is being computed."""

    def __init__(self, futures: Sequence[Future[int]], logits: npt.NDArray[np.float32]) -> None:
        self._futures = futures
        self._logits = logits

    def wait(self, progress: Callable[[int], object] = lambda rows: None) -> npt.NDArray[np.float32]:
        """Return the logits float32 [n, labels], in the order of the pairs.

        `progress` is told the rows of each batch that is done. Raises the first batch's error, after the others were
        called off.
        """
        try:
            for future in self._futures:
                progress(future.result())
        except BaseException:
            self.cancel()
            raise
        return self._logits

    def cancel(self) -> None:
        """Call off the batches that have not begun, and wait for those that have."""
        for future in self._futures:
            future.cancel()
        for future in self._futures:
            if not future.cancelled():
                future.exception()


class Streams:
    """Owns a model's sessions and the threads that call them; any number of threads may start requests.

    A stream is one batch on one processor. Two streams do more than one batch on two processors, since their threads
    never wait for one another; only a request of fewer pairs than streams would leave processors idle, and is computed
    a batch at a time by all of them. That needs a session of its own, which is opened at the first such request.
    """

    def __init__(self, bundle: Bundle, setup: Setup) -> None:
        """Open the model. Raises BundleError or BackendError when the backend cannot."""
        self.setup = setup
        self._bundle = bundle
        self.session = setup.open(bundle, threads=max(1, setup.threads // setup.streams), streams=setup.streams)
        self._wide: Session | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._executor = ThreadPoolExecutor(setup.streams, thread_name_prefix="crossrt")

    def start(self, pairs: EncodedPairs, *, batch_size: int) -> Pending:
        """Begin to score a request in batches of at most `batch_size` rows, and of the setup's. See `Pending`."""
        manifest = self._bundle.manifest
        logits = np.empty((len(pairs), manifest.labels), dtype=np.float32)
        streams = self.setup.streams
        wide = 0 < len(pairs) < streams
        session = self._wide_session() if wide else self.session
        made = plan(pairs.lengths, batch_size=min(batch_size, self.setup.batch_size), streams=1 if wide else streams)

        def score(rows: npt.NDArray[np.int64]) -> int:
            batch = Batch.padded(pairs, rows, manifest.pad_token_id)
            with CORES.taken(session.threads):
                logits[rows] = session.run(batch)
            return len(rows)

        with self._lock:
            if self._closed:
                raise BackendError("this model is closed; open the bundle again")
            return Pending([self._executor.submit(score, rows) for rows in made.parts], logits)

    def run(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Compute one batch that was padded elsewhere, on all processors. See `Session.run`."""
        session = self.session if self.setup.streams == 1 else self._wide_session()
        with CORES.taken(session.threads):
            return session.run(batch)

    def close(self) -> None:
        """Wait for what is being computed, then free the sessions. May be called again."""
        with self._lock:
            self._closed = True
        self._executor.shutdown(cancel_futures=True)
        for session in (self.session, self._wide):
            if session is not None:
                session.close()

    def _wide_session(self) -> Session:
        with self._lock:
            if self._wide is None and not self._closed:
                self._wide = self.setup.open(self._bundle, threads=self.setup.threads, streams=1)
            return self._wide or self.session
