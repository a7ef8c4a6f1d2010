"""`crossrt rerank` scores a run again."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tqdm import tqdm

from ..engine.errors import OptionError
from .shared.app import app
from .shared.arguments import as_typed, check_output_is_no_input, check_standard_input
from .shared.option_groups import with_option_groups
from .shared.options import (
    RUNS,
    TEXTS,
    BatchSize,
    CascadeOptions,
    Exact,
    HubOptions,
    ModelOptions,
    Precision,
    WindowOptions,
)
from .shared.output import for_a_person
from .shared.ray_options import RayOptions

if TYPE_CHECKING:
    from ..engine.cascade import Cascade
    from ..engine.cross_encoder import CrossEncoder
    from ..engine.store.passage_store import PassageStore
    from ..engine.text.truncation import Truncation

SET_ASIDE = 3
"""Exit status of a job on Ray that is done, but has set passages aside."""


@app.command(
    epilog="Example:  crossrt rerank minilm-l6 --queries q.tsv --passages p.tsv --run bm25.trec --out minilm.trec"
)
@with_option_groups
def rerank(
    bundle: Annotated[str, typer.Argument(help="A bundle, a checkpoint directory or a hub id.")],
    *,
    queries: Annotated[list[str], typer.Option(help=f"Queries: {TEXTS}.")],
    run: Annotated[list[str], typer.Option(help=f"The run to rerank: {RUNS}.")],
    out: Annotated[
        Path,
        typer.Option(
            help="The run to write: MS MARCO's columns for a name in .tsv, JSON Lines for .jsonl, Parquet for .parquet, "
            "otherwise a TREC run; - is standard output."
        ),
    ],
    passages: Annotated[
        list[str] | None, typer.Option(help="Passages, in the same formats as queries. Give these or --store.")
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="Passages as a store that `crossrt prepare` made; with --ray also its URL.")
    ] = None,
    depth: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Score and write only the best K candidates of each query, by the run's own scores; all by default.",
        ),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(min=1, help="Write only the best K of each query, by the new scores; all by default.")
    ] = None,
    exact: Exact = None,
    cascade: CascadeOptions,
    windows: WindowOptions,
    tag: Annotated[str, typer.Option(help="Name of the run in its last column.")] = "crossrt",
    batch_size: BatchSize = 32,
    precision: Precision = None,
    opened: ModelOptions,
    hub: HubOptions,
    on_ray: RayOptions,
) -> None:
    """Rerank a run: score its candidates again, and write the new run completely or not at all.

    Files may be compressed by gzip, bzip2, xz or zstd. Each option of files may be given several times, as a pattern such as
    'part-*.jsonl.gz', or as - for standard input.
    """
    from ..engine.cascade import Cascade
    from ..engine.cross_encoder import CrossEncoder
    from ..engine.files.publish import check_file
    from ..engine.files.run_output import check_output_name, check_tag, run_output
    from ..engine.files.trec import read_candidates, read_collection
    from ..engine.store.passage_store import PassageStore

    tag = as_typed(tag, "--tag")
    check_tag(tag)
    check_output_name(out)
    check_file(out)
    if bool(passages) == (store is not None):
        raise OptionError("give --passages or --store, one of them")
    check_standard_input(queries=queries, run=run, passages=passages)
    check_output_is_no_input(out, queries=queries, run=run, passages=passages)
    cascade.check()
    on_ray.refuse_without_ray()
    shared: dict[str, Any] = {"windows": windows.windows(), "batch_size": batch_size}
    options = {"top_k": top_k, "exact": exact}
    if on_ray.ray is not None:
        if store is None or cascade.first is not None:
            raise OptionError("--ray takes passages by --store, and no --first")
        source = hub.for_bundles([bundle])
        all_options = {**asdict(opened), **options, **shared, "depth": depth, "tag": tag, "precision": precision}
        _on_ray(run, queries, store, bundle, out, **all_options, **on_ray.arguments(), source=source)
        return
    source = hub.for_bundles(cascade.bundles(bundle))
    texts: PassageStore | dict[str, str]
    if store is not None:
        texts = PassageStore(store)
        query_texts, candidates = read_candidates(queries, run, depth=depth)
        for scores in candidates.values():
            texts.rows(list(scores))  # raises for a passage that is missing, before hours of scoring
    else:
        assert passages
        query_texts, texts, candidates = read_collection(queries, passages, run, depth=depth)
    total = sum(len(scores) for scores in candidates.values())
    written = 0
    opening = {"precision": precision, **asdict(opened), **source}
    with (
        CrossEncoder(bundle, **opening) as model,
        cascade.ranker(model, shared, **opening) as (ranker, rank_options),
    ):
        with (
            run_output(out, tag=tag) as add,
            tqdm(total=total, desc="Reranking", unit="pair", disable=not for_a_person()) as bar,
        ):
            for query, scores in candidates.items():
                ranked = _ranked(ranker, query_texts[query], list(scores), texts, options | rank_options)
                add(query, ranked)
                written += len(ranked)
                bar.update(len(scores))
        cut = _cut(model.truncation, model.max_length)
        if isinstance(ranker, Cascade):
            cut = _cut(ranker.first.truncation, ranker.first.max_length, " by the first model") + cut
    print(f"{out}: {len(candidates):,} queries, {total:,} passages{_kept(written, total)}{cut}", file=sys.stderr)


def _on_ray(run: list[str], queries: list[str], store: str, bundle: str, out: Path, **options: Any) -> None:
    """Rerank on Ray, and exit with `SET_ASIDE` when passages could not be scored."""
    from ..distributed import rerank as rerank_on_ray
    from ..distributed.merge import errors_file
    from ..engine.kernels.support import NARROW

    done = rerank_on_ray(run, queries, store, bundle, out, **options, progress=for_a_person(), log=True)
    kept, cut = _kept(done.written + done.failures, done.pairs), _cut(done.truncation, done.max_length)
    print(f"{out}: {done.queries:,} queries, {done.pairs:,} passages{kept}{cut}", file=sys.stderr)
    if len(done.backends) > 1:
        differ = (
            "which order passages in another way: give nodes with the same kind of processor, or another --precision or --backend"
            if NARROW in done.backends
            else "which differ in the last digits"
        )
        print(f"nodes scored with {' and '.join(done.backends)}, {differ}", file=sys.stderr)
    if done.failures:
        print(f"{done.failures:,} passage(s) were set aside: {errors_file(out)} names them", file=sys.stderr)
        raise typer.Exit(SET_ASIDE)


def _ranked(
    ranker: "CrossEncoder | Cascade",
    query: str,
    ids: list[str],
    passages: "PassageStore | dict[str, str]",
    options: dict[str, Any],
) -> dict[str, float]:
    """Return the scores of the passages to write, by id."""
    if isinstance(passages, dict):
        found = ranker.rank(query, [passages[name] for name in ids], show_progress_bar=False, **options)
    else:
        found = ranker.rank(query, passage_ids=ids, passages=passages, **options)
    return {ids[each["corpus_id"]]: each["score"] for each in found}


def _kept(written: int, total: int) -> str:
    return "" if written == total else f", the best {written:,} written"


def _cut(truncation: "Truncation", max_length: int, by: str = "") -> str:
    if not truncation.cut:
        return ""
    return (
        f"; {truncation.cut:,} were cut to {max_length:,} tokens{by} and lost {truncation.tokens:,} tokens "
        "(--window scores them whole)"
    )
