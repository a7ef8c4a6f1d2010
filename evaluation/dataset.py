"""Collections of ir_datasets by id, such as `msmarco-passage/trec-dl-2019/judged` or `beir/scifact/test`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ..engine.errors import BackendError, DataFileError, OptionError, SourceError
from ..engine.files.source import Given, Source
from ..engine.files.trec import Qrels
from ..measurement.provenance import Provenance
from .candidates import CANDIDATES, bm25_run, cached_file
from .collection import Collection
from .passages import Passages, TextPassages
from .prepared_passages import PreparedPassages
from .run_file import RunFile


class DatasetPassages(TextPassages):
    """The passages of a data set, which ir_datasets stores on disk and looks up by id."""

    def __init__(self, name: str, dataset: Any) -> None:
        self.where = f"the passages of {name}"
        self.source = Provenance(name=name, sha256=None)
        self._name, self._dataset = name, dataset
        with _fetching(name):
            self._store = dataset.docs_store()

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Yield every id with its text."""
        with _fetching(self._name):
            for passage in self._dataset.docs_iter():
                yield passage.doc_id, passage.default_text()

    def missing(self, ids: Sequence[str]) -> list[str]:
        """Return the ids that the data set lacks."""
        with _fetching(self._name):
            found = self._store.get_many(ids)
        return [name for name in ids if name not in found]

    def texts(self, ids: Sequence[str]) -> list[str]:
        """Return the texts of these ids, all of which must exist."""
        with _fetching(self._name):
            found = self._store.get_many(ids)
            return [found[name].default_text() for name in ids]


def collection_of_dataset(
    name: str,
    *,
    folder: Path,
    run: Given | None = None,
    store: Path | None = None,
    bm25: bool = False,
    depth: int | None = None,
    limit: int | None = None,
    progress: bool = False,
) -> Collection:
    """Load a data set by its id, with the candidates of `run` or, without a run, its own candidates.

    If it has no candidates, or with `bm25`, a BM25 run of `depth` or 100 candidates per query is made. Runs are written into
    `folder`. `store` holds its prepared passages. Raises SourceError, with the places that were tried, for a data set that is not
    available, OptionError for an id that ir_datasets does not know and for a data set without queries, judgments or passages,
    BackendError without ir_datasets, and the errors of `Collection.of`.
    """
    try:
        import ir_datasets
    except ImportError:
        raise BackendError('--dataset needs ir_datasets: pip install "crossrt[report]"') from None
    try:
        dataset = ir_datasets.load(name)
    except KeyError:
        raise OptionError(
            f"ir_datasets knows no data set {name!r}; `ir_datasets list` prints those it knows. Files are given with "
            "--queries, --passages, --run and --qrels"
        ) from None
    for part, has in (("queries", dataset.has_queries()), ("qrels", dataset.has_qrels()), ("docs", dataset.has_docs())):
        if not has and not (part == "docs" and store is not None):
            raise OptionError(f"the data set {name} has no {part}; name one that has queries, qrels and docs")
    with _fetching(name):
        queries = {query.query_id: query.default_text() for query in dataset.queries_iter()}
        qrels: Qrels = {}
        for judged in dataset.qrels_iter():
            qrels.setdefault(judged.query_id, {})[judged.doc_id] = judged.relevance
    passages: Passages = DatasetPassages(name, dataset) if store is None else PreparedPassages(store)
    described = name
    if run is not None:
        run = Source.of(run)
        described += f", {run.short_name}"
    elif dataset.has_scoreddocs() and not bm25:
        run = _own_candidates(name, dataset, set(qrels), folder)
        described += ", its own candidates"
    else:
        asked = {query: text for query, text in queries.items() if query in qrels}
        run = bm25_run(asked, passages, folder, depth=depth, progress=progress)
        described += ", candidates of a BM25 run made for it"
    return Collection.of(
        name=described,
        queries=queries,
        qrels=qrels,
        passages=passages,
        run=RunFile(run),
        queries_source=f"the queries of {name}",
        qrels_source=f"the qrels of {name}",
        depth=depth,
        limit=limit,
        progress=progress,
    )


def _own_candidates(name: str, dataset: Any, judged: set[str], folder: Path) -> Path:
    def write(file: IO[str]) -> None:
        with _fetching(name):
            for scored in dataset.scoreddocs_iter():
                if scored.query_id in judged:
                    file.write(f"{scored.query_id} Q0 {scored.doc_id} 0 {float(scored.score)!r} {name}\n")

    return cached_file(folder / CANDIDATES, {"dataset": name, "judged": Provenance.digest(sorted(judged))}, write)


@contextmanager
def _fetching(name: str) -> Iterator[None]:
    """Turn any error of ir_datasets into a SourceError that says where it looked and what to do."""
    try:
        yield
    except (SourceError, DataFileError):
        raise
    except Exception as error:  # from requests, urllib3, the file system or the reader of this data set
        import ir_datasets

        between = "\n" + " " * 13
        places = [f"{ir_datasets.util.home_path()} (IR_DATASETS_HOME names another)", *_tried(error)]
        raise SourceError(
            f"the data set {name} could not be had\n"
            f"  looked in  {between.join(places)}\n"
            "  try        the files themselves: --queries Q.tsv --passages P.tsv --run R.trec --qrels QRELS, where Q.tsv\n"
            "             and P.tsv hold `id <tab> text` lines; or the same command where there is a network, and then that\n"
            "             folder copied here"
        ) from error


def _tried(error: Exception) -> list[str]:
    """Return the addresses that failed, each with its error, or for other errors the message."""
    mirrors = error.args[1] if len(error.args) == 2 and isinstance(error.args[1], list) else [(None, error)]
    found = []
    for mirror, reason in mirrors:
        address = getattr(getattr(reason, "request", None), "url", None) or getattr(mirror, "url", None)
        said = " ".join(str(reason).split())
        found.append(f"{address}: {type(reason).__name__}" if address else f"{type(reason).__name__}: {said}")
    return found
