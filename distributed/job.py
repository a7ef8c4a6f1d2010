"""`rerank` reranks a run with a pool of actors on Ray. It continues an earlier start of the same job."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from ..engine.bundle.bundle import Bundle
from ..engine.bundle.manifest import MANIFEST
from ..engine.bundle.resolve import bundle_from_source
from ..engine.errors import DataFileError, OptionError
from ..engine.files.lock import file_lock
from ..engine.files.publish import STANDARD_OUTPUT, check_file
from ..engine.files.run_output import check_output_name, check_tag
from ..engine.files.source import Given, Source
from ..engine.options import whole
from ..engine.store.passage_store import DESCRIPTION, StoreDescription
from ..engine.text.windows import Windows
from .actors import scored
from .cluster import LOCAL, check_ray, connected, pool_in
from .fetched import described, fetched
from .folder import BEGUN, PARTS, ROWS, Folder, is_url
from .identity import Identity, bundle_digest, store_digest
from .merge import merged
from .plan import planned
from .progress import Progress
from .rows import Candidates, blocks
from .scorer import Work
from .summary import Summary

STOP, SKIP = "stop", "skip"
BLOCK = 2000
"""Pairs in a block. A block is seconds of work, which a killed actor loses."""
CUT = 1000
"""Candidates of a query above which its list is scored in pieces. Most runs have this many."""


def rerank(
    run: Given,
    queries: Given,
    store: str | PathLike[str],
    bundle: str | PathLike[str],
    out: str | PathLike[str],
    *,
    ray: str = LOCAL,
    actors: int | None = None,
    threads: int | None = None,
    gpus: float = 0,
    parts: str | PathLike[str] | None = None,
    block: int = BLOCK,
    cut: int = CUT,
    on_error: str = STOP,
    depth: int | None = None,
    top_k: int | None = None,
    exact: bool | None = None,
    windows: Windows | None = None,
    tag: str = "crossrt",
    batch_size: int = 32,
    precision: str | None = None,
    device: str | None = None,
    backend: str = "auto",
    max_length: int | None = None,
    relevant_label: int | str | None = None,
    trust_engines: bool = False,
    source: Mapping[str, Any] | None = None,
    progress: bool = False,
    log: bool = False,
) -> Summary:
    """Score the candidates of a run again on a Ray cluster, and write the new run to `out` as `crossrt rerank` does.

    Files: `run` and `queries` are in the formats of docs/files.md; only this process reads them. `store`, a store of prepared
    passages, and `bundle` are paths that every node has, or URLs of fsspec, which every node copies into its cache once. `bundle`
    may also be a checkpoint or a hub id, which is opened here with the options of `bundle_from_source` in `source`. The nodes
    must then have the bundle at the same path in the cache.

    Cluster: `ray` is `local`, `auto` or `host:port`. If this process is connected to Ray already, that connection is used
    instead. An actor gets `threads` processors, one for each of its threads, and `gpus` GPUs. By default there are as many actors
    as fit; see `pool_in`.

    Resuming: `parts` is a folder that all nodes share, as a path or a URL, by default `OUT.parts`. Blocks of at most `block`
    pairs are committed there as files, atomically. A later call with the same arguments scores only the blocks without a file.
    Lists of more than `cut` candidates are scored in pieces.

    Errors: with `on_error="stop"` a passage that cannot be scored ends the job. With `skip` it is left out and listed in
    `OUT.errors.jsonl`.

    The other options are those of `crossrt rerank`. `progress` shows a bar, `log` prints a line every minute.

    Raises OptionError for options that are not allowed and for more processors or GPUs than any node has, DataFileError for
    files that cannot be used, for parts of another job and for a passage that cannot be scored, StoreError and BundleError for a
    store and a bundle that cannot be used, and BackendError if Ray is missing, cannot be reached or gives up.
    """
    begin = time.monotonic()
    out = Path(out)
    _check(on_error, device, gpus, parts, out, tag)
    for name, value in {"actors": actors, "threads": threads, "depth": depth, "top_k": top_k}.items():
        if value is not None:
            whole(name, value, minimum=1)
    if exact and top_k is None:
        raise OptionError("an exact ranking needs the number of passages to return: give --top-k (top_k=)")
    model = {
        "device": "cuda" if gpus else "cpu",
        "precision": precision,
        "backend": backend,
        "max_length": max_length,
        "relevant_label": relevant_label,
        "trust_engines": trust_engines,
    }
    whole_lists = top_k is not None and bool(exact or (exact is None and precision == "auto"))
    # Without exact rankings, merging the parts chooses the best K, so that the parts serve every K.
    rank = {
        "top_k": top_k if whole_lists else None,
        "exact": exact if whole_lists else None,
        "windows": windows,
        "batch_size": whole("batch_size", batch_size, minimum=1),
    }
    run, queries = Source.of(run), Source.of(queries)
    for name, files in {"run": run, "queries": queries}.items():
        if files.contains(out):
            raise OptionError(f"out={str(out)!r} is also read as {name}, and would be replaced; give another file")
    folder = Folder(_absolute(out.with_name(f"{out.name}.parts") if parts is None else parts))
    place, opened = _bundle(bundle, source or {})
    work = _work(place, opened, _absolute(store), folder, model=model, rank=rank, skip=on_error == SKIP)
    identity = _identity(work, block=whole("block", block, minimum=1), cut=whole("cut", cut, minimum=1))
    candidates = Candidates(run, queries, depth=depth)
    check_ray(ray)
    with _own(folder):
        check_file(out)
        identity.claim(folder)
        plan = planned(folder, blocks(candidates.rows(None if whole_lists else cut), block))
        if plan.missing:
            with connected(ray) as module, Progress(plan.pairs, plan.earlier, bar=progress, lines=log) as done:
                pool = pool_in(module, actors=actors, threads=threads, gpus=gpus)
                for name in scored(module, work, list(plan.missing), pool):
                    done.add(plan.missing[name])
        found = merged(folder, plan.names, out, tag=tag, top_k=top_k, skip=work.skip)
        folder.remove(ROWS)
        folder.remove(BEGUN)
        folder.clear_abandoned(PARTS)
    return Summary(
        queries=len(candidates),
        pairs=plan.pairs,
        earlier=plan.earlier,
        written=found.written,
        failures=found.failures,
        seconds=time.monotonic() - begin,
        max_length=opened.manifest.max_length if max_length is None else max_length,
        truncation=found.truncation,
        backends=tuple(sorted(found.backends)),
    )


def _check(
    on_error: str, device: str | None, gpus: float, parts: str | PathLike[str] | None, out: Path, tag: str
) -> None:
    """Raise OptionError for options that are not allowed, or not together."""
    if on_error not in (STOP, SKIP):
        raise OptionError(f"on_error={on_error!r}: give stop or skip")
    if device not in (None, "cuda" if gpus else "cpu"):
        raise OptionError(f"device={device!r} and {gpus:g} GPUs for an actor: give GPUs for cuda, and none for cpu")
    if gpus < 0:
        raise OptionError(f"gpus={gpus!r}: give 0 or more")
    check_output_name(out)
    check_tag(tag)
    if parts is None and out == STANDARD_OUTPUT:
        raise OptionError("standard output has no folder of parts beside it; name one with --ray-parts (parts=)")


def _work(
    bundle: str,
    opened: Bundle,
    store: str,
    folder: Folder,
    *,
    model: Mapping[str, Any],
    rank: Mapping[str, Any],
    skip: bool,
) -> Work:
    """Return what the actors need to know. Their threads are 0 here, since the cluster decides them."""
    if not is_url(store):
        # This raises StoreError, which says what is wrong with the store and what to do.
        StoreDescription.read(Path(store) / DESCRIPTION)
    return Work(
        bundle=bundle,
        bundle_name=bundle.rstrip("/").rpartition("/")[2],
        bundle_digest=bundle_digest(opened),
        store=store,
        store_digest=store_digest(described(store, DESCRIPTION)),
        folder=folder.place,
        model=model,
        rank=rank,
        threads=0,
        skip=skip,
    )


def _identity(work: Work, *, block: int, cut: int) -> Identity:
    """Return what the scores depend on. `batch_size` and `skip` change no scores."""
    windows = work.rank["windows"]
    rank = {
        "top_k": work.rank["top_k"],
        "exact": work.rank["exact"],
        "windows": None if windows is None else repr(windows),
    }
    return Identity(
        bundle=f"{work.bundle_name}@{work.bundle_digest}",
        store=work.store_digest,
        options={**work.model, **rank},
        block=block,
        cut=cut,
    )


def _bundle(bundle: str | PathLike[str], source: Mapping[str, Any]) -> tuple[str, Bundle]:
    """Return the place where the nodes find the bundle, and the bundle as opened here."""
    given = fspath(bundle)
    if is_url(given):
        return given, Bundle.open(fetched(given, MANIFEST))
    opened = bundle_from_source(given, **source)
    return _absolute(opened.path), opened


def _absolute(place: str | PathLike[str]) -> str:
    text = fspath(place)
    return text if is_url(text) else str(Path(text).expanduser().absolute())


@contextmanager
def _own(folder: Folder) -> Iterator[None]:
    """Create the folder and, if it is a directory, lock it against other drivers. Raises DataFileError if one works in it."""
    folder.make()
    try:
        with nullcontext() if folder.local is None else file_lock(folder.local / ".driver.lock"):
            yield
    except BlockingIOError:
        raise DataFileError(
            f"another job writes to {folder.place} now; wait for its end, or give another folder"
        ) from None
