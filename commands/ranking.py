"""`crossrt rank`, `rerank`, `prepare` and `evaluate`: bundles score passages."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm import tqdm

from ..engine.errors import DataFileError, OptionError
from .app import app, as_typed, for_a_person, say, say_json, size_of
from .options import (
    Backend,
    BatchSize,
    CacheFolder,
    Device,
    LocalFilesOnly,
    MaxLength,
    Precision,
    RelevantLabel,
    Revision,
    Threads,
    Token,
    TrustEngines,
    hub_options,
)


@app.command(
    epilog="Examples:  crossrt rank minilm-l6 'how tall is k2' passages.txt  |  ... | crossrt rank minilm-l6 'k2' - --json"
)
def rank(
    bundle: Annotated[str, typer.Argument(help="A bundle, a checkpoint directory or a hub id.")],
    query: Annotated[str, typer.Argument(help="The query.")],
    file: Annotated[
        str, typer.Argument(help="Passages one a line, or `id <tab> text` on every line; - is stdin.")
    ] = "-",
    top_k: Annotated[int | None, typer.Option(help="Show the best K alone.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    batch_size: BatchSize = 32,
    precision: Precision = None,
    backend: Backend = "auto",
    device: Device = None,
    threads: Threads = None,
    max_length: MaxLength = None,
    relevant_label: RelevantLabel = None,
    trust_engines: TrustEngines = False,
    revision: Revision = None,
    token: Token = None,
    cache_folder: CacheFolder = None,
    local_files_only: LocalFilesOnly = False,
) -> None:
    """Rank the passages of a file for one query."""
    from ..engine.cross_encoder import CrossEncoder

    hub = hub_options([bundle], revision, token, cache_folder, local_files_only)
    query = as_typed(query, "the query")
    ids, texts = _passages(file)
    with CrossEncoder(
        bundle,
        precision=precision,
        backend=backend,
        device=device,
        threads=threads,
        max_length=max_length,
        relevant_label=relevant_label,
        trust_engines=trust_engines,
        **hub,
    ) as model:
        results = model.rank(
            query,
            texts,
            top_k=top_k,
            return_documents=True,
            batch_size=batch_size,
            show_progress_bar=for_a_person() and len(texts) > 16,
        )
    rows = [
        {"rank": place, "id": ids[result["corpus_id"]], "score": result["score"], "text": result["text"]}
        for place, result in enumerate(results, start=1)
    ]
    if as_json:
        say_json(rows)
    else:
        _print_table(rows)


@app.command(
    epilog="Example:  crossrt rerank minilm-l6 --queries q.tsv --passages p.tsv --run bm25.trec --out minilm.trec"
)
def rerank(
    bundle: Annotated[str, typer.Argument(help="A bundle, a checkpoint directory or a hub id.")],
    queries: Annotated[Path, typer.Option(help="`id <tab> query` lines.")],
    run: Annotated[Path, typer.Option(help="The TREC run to rerank.")],
    out: Annotated[Path, typer.Option(help="The TREC run to write; - is standard output.")],
    passages: Annotated[Path | None, typer.Option(help="`id <tab> passage` lines,")] = None,
    store: Annotated[Path | None, typer.Option(help="or what `crossrt prepare` made of them.")] = None,
    depth: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Score and write only the best K candidates of each query, by the run's own scores; all if none.",
        ),
    ] = None,
    tag: Annotated[str, typer.Option(help="Name of the run in its last column.")] = "crossrt",
    batch_size: BatchSize = 32,
    precision: Precision = None,
    backend: Backend = "auto",
    device: Device = None,
    threads: Threads = None,
    max_length: MaxLength = None,
    relevant_label: RelevantLabel = None,
    trust_engines: TrustEngines = False,
    revision: Revision = None,
    token: Token = None,
    cache_folder: CacheFolder = None,
    local_files_only: LocalFilesOnly = False,
) -> None:
    """Rerank a TREC run: candidates are scored again, and the new run is written whole or not at all."""
    from ..engine.cross_encoder import CrossEncoder
    from ..engine.files.publish import published_file
    from ..engine.files.trec import read_candidates, read_collection, write_run
    from ..engine.store.passage_store import PassageStore

    tag = as_typed(tag, "--tag")
    if not tag or len(tag.split()) != 1:
        raise OptionError(f"--tag {tag!r}: give one word")
    if (passages is None) == (store is None):
        raise OptionError("give --passages or --store, one of them")
    hub = hub_options([bundle], revision, token, cache_folder, local_files_only)
    prepared = None if store is None else PassageStore(store)
    passage_texts: dict[str, str] = {}
    if passages is None:
        query_texts, candidates = read_candidates(queries, run, depth=depth)
    else:
        query_texts, passage_texts, candidates = read_collection(queries, passages, run, depth=depth)
    total = sum(len(scores) for scores in candidates.values())
    with (
        CrossEncoder(
            bundle,
            precision=precision,
            backend=backend,
            device=device,
            threads=threads,
            max_length=max_length,
            relevant_label=relevant_label,
            trust_engines=trust_engines,
            **hub,
        ) as model,
        published_file(out) as file,
        tqdm(total=total, desc="Reranking", unit="pair", disable=not for_a_person()) as bar,
    ):
        for query, scores in candidates.items():
            if prepared is not None:
                logits = model.logits_from(prepared, query_texts[query], list(scores), batch_size=batch_size)
            else:
                texts = ((query_texts[query], passage_texts[passage]) for passage in scores)
                logits = model.logits(texts, batch_size=batch_size, show_progress_bar=False)
            relevance = model.relevance(logits)
            write_run(file, query, dict(zip(scores, relevance.tolist(), strict=True)), tag=tag)
            bar.update(len(scores))
    print(f"{out}: {len(candidates)} queries, {total} passages", file=sys.stderr)


@app.command(epilog="Example:  crossrt prepare minilm-l6 collection.tsv collection.store")
def prepare(
    bundle: Annotated[Path, typer.Argument(help="A bundle; every model with its tokenizer can use the store.")],
    passages: Annotated[Path, typer.Argument(help="`id <tab> passage` lines.")],
    store: Annotated[Path, typer.Argument(help="The store to make.")],
    force: Annotated[bool, typer.Option("--force", help="Replace an existing store, in one step.")] = False,
) -> None:
    """Tokenize a collection once, for `rerank --store`. An interrupted run goes on when it is started again."""
    from ..engine.bundle.bundle import Bundle
    from ..engine.store.preparation import prepare
    from ..engine.text.tokenizer import read_tokenizer

    opened = Bundle.open(bundle)
    made = prepare(
        passages,
        store,
        read_tokenizer(opened.tokenizer_file),
        tokenizer_sha256=opened.tokenizer_sha256,
        limit=opened.manifest.max_positions,
        truncation_side=opened.manifest.truncation_side,
        force=force,
        progress=for_a_person(),
    )
    print(f"{store}: {len(made):,} passages, {made.description.tokens:,} tokens, {size_of(store)}", file=sys.stderr)


@app.command(
    epilog="Examples:  crossrt evaluate minilm-l6 --precision fp32,int8 --queries q.tsv --passages p.tsv --run bm25.trec "
    "--qrels qrels.txt --out quality  |  crossrt evaluate minilm-l6 --dataset beir/scifact/test --out scifact"
)
def evaluate(
    bundles: Annotated[list[str], typer.Argument(help="Bundles, checkpoint directories or hub ids.")],
    out: Annotated[
        Path,
        typer.Option(help="Directory for runs, measures of every query and result.json; goes on with what is there."),
    ],
    dataset: Annotated[str | None, typer.Option(help="An id of ir_datasets, as msmarco-passage/dev/small,")] = None,
    queries: Annotated[Path | None, typer.Option(help="or files: `id <tab> query` lines,")] = None,
    passages: Annotated[Path | None, typer.Option(help="`id <tab> passage` lines,")] = None,
    store: Annotated[Path | None, typer.Option(help="or what `crossrt prepare` made of them,")] = None,
    qrels: Annotated[Path | None, typer.Option(help="and TREC qrels.")] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            help="The TREC run to rerank; the data set's own candidates if none, or else a BM25 run made here."
        ),
    ] = None,
    bm25: Annotated[
        bool, typer.Option("--bm25", help="Make a BM25 run also where the data set has candidates.")
    ] = False,
    precision: Annotated[str, typer.Option(help="Precisions of every bundle, as fp32,int8.")] = "fp32",
    measures: Annotated[str, typer.Option(help="As ir_measures names them.")] = "nDCG@10 RR@10 AP R@100",
    baseline: Annotated[
        str | None,
        typer.Option(help="What the others are compared with: BUNDLE.PRECISION, the first if none, or candidates."),
    ] = None,
    depth: Annotated[
        int | None,
        typer.Option(help="Rerank the best K candidates of each query; all if none, 100 of a BM25 run."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first N judged queries, for a try-out.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Start anew: throw away the runs that are there.")] = False,
    batch_size: BatchSize = 32,
    backend: Backend = "auto",
    device: Device = None,
    threads: Threads = None,
    max_length: MaxLength = None,
    relevant_label: RelevantLabel = None,
    trust_engines: TrustEngines = False,
    revision: Revision = None,
    token: Token = None,
    cache_folder: CacheFolder = None,
    local_files_only: LocalFilesOnly = False,
) -> None:
    """Measure how well bundles rank: each in each precision, beside the candidates as they came, with intervals."""
    from ..evaluation.collection import Collection, open_passages
    from ..evaluation.dataset import collection_of_dataset
    from ..evaluation.evaluate import evaluate, opened_folder
    from ..evaluation.measures import Measures
    from ..measurement.model_config import CANDIDATES, Options, model_configs

    parsed = Measures.parse(measures)
    options = Options(
        backend=backend,
        device=device,
        threads=threads,
        max_length=max_length,
        batch_size=batch_size,
        relevant_label=relevant_label,
        trust_engines=trust_engines,
    )
    hub = hub_options(bundles, revision, token, cache_folder, local_files_only)
    systems = model_configs(bundles, [name.strip() for name in precision.split(",")], options, **hub)
    if dataset is not None and (queries or passages or qrels):
        raise OptionError(
            "give --dataset, or --queries, --passages and --qrels, not both; --run and --store go with each"
        )
    choice: dict[str, Any] = {"folder": out, "run": run, "depth": depth, "limit": limit, "progress": for_a_person()}
    with opened_folder(out):
        if dataset is not None:
            collection = collection_of_dataset(dataset, store=store, bm25=bm25, **choice)
        elif queries is not None and qrels is not None:
            opened = open_passages(passages, store, progress=for_a_person())
            collection = Collection.from_files(queries=queries, qrels=qrels, passages=opened, **choice)
        else:
            raise OptionError("give --dataset ID, or --queries, --qrels and one of --passages and --store")
        result = evaluate(
            systems, collection, out, measures=parsed, baseline=baseline, restart=force, progress=for_a_person()
        )
    say(str(result))
    print(f"{out}: runs, queries.jsonl and result.json", file=sys.stderr)
    labels = {CANDIDATES, *(system.label for system in systems)}
    others = {run.name.removesuffix(".run.trec") for run in out.glob("*.run.trec")} - labels
    if others:
        print(
            f"{out}: there are earlier runs, which the result leaves out, of {', '.join(sorted(others))}",
            file=sys.stderr,
        )


def _passages(file: str) -> tuple[list[str], list[str]]:
    """Return ids and texts of a file, or of standard input. Raises DataFileError for what is neither lines nor TSV."""
    from ..engine.files.trec import check_columns, is_json, text_lines

    name = "standard input" if file == "-" else file
    try:
        if file == "-":
            lines = [line for _, line in text_lines(sys.stdin.buffer, name)]
        else:
            with Path(file).open("rb") as opened:
                lines = [line for _, line in text_lines(opened, name)]
    except OSError as error:
        raise DataFileError(f"{file} cannot be read ({error.strerror})") from error
    if not lines:
        raise DataFileError(f"{name} is empty; expected one passage a line")
    if is_json(lines):
        raise DataFileError(
            f"{name} is JSON, which begins {lines[0][:60]!r}; expected one passage a line, or `id <tab> text` on every line"
        )
    check_columns({line.count("\t") for line in lines}, name, "`id <tab> text`")
    if all("\t" in line for line in lines):
        split = [line.split("\t", 1) for line in lines]
        return [name for name, _ in split], [text for _, text in split]
    return [str(number) for number in range(1, len(lines) + 1)], lines


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, expand=True)  # without, a long passage squeezes the others to nothing
    table.add_column("rank", justify="right", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("id", no_wrap=True)
    table.add_column("passage", no_wrap=True, overflow="ellipsis", ratio=1)
    for row in rows:
        table.add_row(str(row["rank"]), f"{row['score']:.4f}", Text(row["id"]), Text(row["text"]))
    console = Console(highlight=False)
    with console.capture() as captured:
        console.print(table)
    say("\n".join(line.rstrip() for line in captured.get().splitlines()))
