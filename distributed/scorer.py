"""`BlockScorer` is the actor. It scores blocks and commits their parts."""

import os
import platform
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import __version__
from ..engine.bundle.bundle import Bundle
from ..engine.bundle.manifest import MANIFEST
from ..engine.cross_encoder import CrossEncoder
from ..engine.errors import BackendError, BundleError, CrossrtError, CudaError, DataFileError, InputError, StoreError
from ..engine.kernels.support import parity_key
from ..engine.store.passage_store import DESCRIPTION, PassageStore
from ..engine.text.truncation import Truncation
from .fetched import described, fetched
from .folder import BEGUN, PARTS, ROWS, Folder
from .identity import bundle_digest, store_digest
from .part import Part, all_failed
from .rows import Block, Row
from .summary import Failure

ATTEMPTS = 5
"""Most attempts at a block in one run of a job. Otherwise a block that kills its process each time would be retried forever."""
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What an actor needs to know. `bundle`, `store` and `folder` are paths that every node has, or URLs.

    `model` are the options of `CrossEncoder`, `rank` those of `CrossEncoder.rank`. `skip` sets failing passages aside. `crossrt`
    is the driver's version.
    """

    bundle: str
    bundle_name: str
    bundle_digest: str
    store: str
    store_digest: str
    folder: str
    model: Mapping[str, Any]
    rank: Mapping[str, Any]
    threads: int
    skip: bool
    crossrt: str = __version__


class BlockScorer:
    """Scores one block at a time. The model and the store are opened for the first block, and stay open."""

    def __init__(self, work: Work) -> None:
        for variable in THREADS:  # set before a library reads them
            os.environ[variable] = str(work.threads)
        self._work = work
        self._folder = Folder(work.folder)
        self._opened: tuple[CrossEncoder, PassageStore] | None = None

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Score the blocks that a batch names. Return a row for each with its name, its seconds, its error and the node.

        The error is a text, empty without an error. It is not raised, since Ray would wrap it in an error of its own.
        """
        names, seconds, errors = [str(name) for name in batch["name"]], [], []
        for name in names:
            begin = time.perf_counter()
            errors.append(self._error_of(name))
            seconds.append(time.perf_counter() - begin)
        return {"name": names, "seconds": seconds, "error": errors, "node": [platform.node()] * len(names)}

    def _error_of(self, name: str) -> str:
        try:
            self._commit(name)
        except CudaError:
            os._exit(1)  # the CUDA context may be lost; Ray starts a new process
        except CrossrtError as error:
            return str(error)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return ""

    def _commit(self, name: str) -> None:
        """Score a block and write its part, unless another actor has written it. Raises the errors of scoring."""
        part = f"{PARTS}/{name}"
        if self._folder.exists(part):
            return
        block = self._block(name)
        times = len(self._folder.names(f"{BEGUN}/{name}"))
        if times >= ATTEMPTS:
            what = f"the process ended {times} times while it scored this passage or one of {block.pairs - 1} others"
            if not self._work.skip:
                first, last = block.rows[0].qid, block.rows[-1].qid
                raise BackendError(f"queries {first} to {last}: {what}")
            self._folder.write(part, all_failed(block, bundle=self._bundle_name, error=what).to_parquet())
            return
        self._folder.write(f"{BEGUN}/{name}/{uuid.uuid4().hex[:8]}", b"")
        content = self._scored(block).to_parquet()
        if not self._folder.exists(part):  # an actor that seemed dead may have written the same part meanwhile
            self._folder.write(part, content)

    def _block(self, name: str) -> Block:
        try:
            return Block.from_parquet(self._folder.read(f"{ROWS}/{name}"))
        except FileNotFoundError:
            raise DataFileError(
                f"the node {platform.node()} does not see {self._work.folder}/{ROWS}/{name}: the folder of parts must be on a "
                "file system that all nodes share, or an object store"
            ) from None

    @property
    def _bundle_name(self) -> str:
        return f"{self._work.bundle_name}@{self._work.bundle_digest}"

    def _scored(self, block: Block) -> Part:
        model, store = self._models()
        scores: list[tuple[str, dict[str, float]]] = []
        failures: list[Failure] = []
        truncation = Truncation()
        for row in block.rows:
            found, cut, failed = self._scores(model, store, row)
            scores.append((row.qid, found))
            truncation += cut
            failures += failed
        return Part(
            scores=tuple(scores),
            bundle=self._bundle_name,
            backend=parity_key(model.backend, model.precision),
            truncation=truncation,
            failures=tuple(failures),
        )

    def _scores(
        self, model: CrossEncoder, store: PassageStore, row: Row
    ) -> tuple[dict[str, float], Truncation, list[Failure]]:
        """Return the scores of a row's passages in the row's order, the truncation, and the passages that were set aside.

        Raises DataFileError, naming query and passage, for a failing passage that is not set aside. An error that no passage
        causes is raised as it is.
        """

        def ranked(docnos: Sequence[str]) -> tuple[dict[str, float], Truncation]:
            before = model.truncation
            found = model.rank(row.query, passage_ids=docnos, passages=store, **self._work.rank)
            scores = {each["corpus_id"]: each["score"] for each in found}
            return {docnos[place]: scores[place] for place in sorted(scores)}, model.truncation.since(before)

        try:
            return *ranked(row.docnos), []
        except (InputError, StoreError, BackendError) as error:
            if isinstance(error, CudaError):
                raise
            causes = dict(self._causes(model, store, row.query, row.docnos))
            if not causes:
                raise
            docno, cause = next(iter(causes.items()))
            if not self._work.skip:
                raise DataFileError(
                    f"query {row.qid}, passage {docno}: {cause} (--on-error skip sets such passages aside)"
                ) from error
        kept = [docno for docno in row.docnos if docno not in causes]
        scores, cut = ranked(kept) if kept else ({}, Truncation())
        return scores, cut, [Failure(query_id=row.qid, doc_id=docno, error=cause) for docno, cause in causes.items()]

    def _causes(
        self, model: CrossEncoder, store: PassageStore, query: str, docnos: Sequence[str]
    ) -> list[tuple[str, str]]:
        """Find the passages that cannot be scored by bisecting the list. Return each with its error."""
        try:
            model.rank(
                query,
                passage_ids=docnos,
                passages=store,
                windows=self._work.rank["windows"],
                batch_size=self._work.rank["batch_size"],
                exact=False,
            )
        except (InputError, StoreError, BackendError) as error:
            if isinstance(error, CudaError):
                raise
            if len(docnos) == 1:
                return [(docnos[0], str(error))]
            middle = len(docnos) // 2
            return [
                cause
                for half in (docnos[:middle], docnos[middle:])
                for cause in self._causes(model, store, query, half)
            ]
        return []

    def _models(self) -> tuple[CrossEncoder, PassageStore]:
        if self._opened is None:
            try:
                self._opened = self._open()
            except (CrossrtError, OSError) as error:
                raise BackendError(f"the node {platform.node()} cannot begin: {error}") from error
        return self._opened

    def _open(self) -> tuple[CrossEncoder, PassageStore]:
        work = self._work
        if work.crossrt != __version__:
            raise BackendError(
                f"it has crossrt {__version__}, and the job was started by {work.crossrt}; install the same on every node"
            )
        if store_digest(described(work.store, DESCRIPTION)) != work.store_digest:
            raise StoreError(f"{work.store} is another store here than where the job was started; copy it again")
        store = PassageStore(fetched(work.store, DESCRIPTION))
        bundle = Bundle.open(fetched(work.bundle, MANIFEST))
        if bundle_digest(bundle) != work.bundle_digest:
            raise BundleError(f"{work.bundle} is another bundle here than where the job was started; copy it again")
        model = CrossEncoder(bundle, threads=work.threads, **work.model)
        side = bundle.manifest.truncation_side
        store.check(bundle.tokenizer_sha256, max_length=model.max_length, truncation_side=side)
        return model, store
