"""`crossrt evaluate` measures how well bundles rank."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ..engine.errors import OptionError
from .shared.app import app
from .shared.arguments import check_standard_input, whole_numbers
from .shared.option_groups import with_option_groups
from .shared.options import RUNS, TEXTS, BatchSize, ExactRowOptions, HubOptions, ModelOptions, WindowOptions
from .shared.output import for_a_person, say


@app.command(
    epilog="Examples:  crossrt evaluate minilm-l6 --precision fp32,int8 --queries q.tsv --passages p.tsv --run bm25.trec "
    "--qrels qrels.txt --out quality  |  crossrt evaluate minilm-l6 --dataset beir/scifact/test --out scifact"
)
@with_option_groups
def evaluate(
    bundles: Annotated[list[str], typer.Argument(help="Bundles, checkpoint directories or hub ids.")],
    *,
    out: Annotated[
        Path,
        typer.Option(
            help="Directory for runs, measures of every query and result.json; an interrupted evaluation continues there."
        ),
    ],
    dataset: Annotated[
        str | None, typer.Option(help="An id of ir_datasets, such as msmarco-passage/dev/small. Give this or files.")
    ] = None,
    queries: Annotated[list[str] | None, typer.Option(help=f"Queries: {TEXTS}.")] = None,
    passages: Annotated[
        list[str] | None, typer.Option(help="Passages, in the same formats as queries. Give these or --store.")
    ] = None,
    store: Annotated[Path | None, typer.Option(help="Passages as a store that `crossrt prepare` made.")] = None,
    qrels: Annotated[list[str] | None, typer.Option(help="Relevance judgments: qrels of TREC or BEIR.")] = None,
    run: Annotated[
        list[str] | None,
        typer.Option(
            help=f"The run to rerank, {RUNS}; by default the data set's own candidates, or else a BM25 run made here."
        ),
    ] = None,
    bm25: Annotated[bool, typer.Option("--bm25", help="Make a BM25 run even if the data set has candidates.")] = False,
    precision: Annotated[str, typer.Option(help="Precisions of every bundle, such as fp32,int8.")] = "fp32",
    measures: Annotated[
        str, typer.Option(help="Measures, by their names in ir_measures, separated by spaces or commas.")
    ] = "nDCG@10 RR@10 AP R@100",
    baseline: Annotated[
        str | None,
        typer.Option(
            help="The row that the others are compared with: BUNDLE.PRECISION or candidates; by default the first bundle."
        ),
    ] = None,
    exact: ExactRowOptions,
    first: Annotated[
        str | None,
        typer.Option(
            help="Also measure cascades: this small bundle scores all candidates, and the others only the best --keep."
        ),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(help="How many candidates --first keeps; several numbers, as in 10,20,50, give several rows."),
    ] = None,
    depth: Annotated[
        int | None,
        typer.Option(help="Rerank the best K candidates of each query; by default all, or 100 of a BM25 run."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first N judged queries, to try things out.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Start again: delete existing runs.")] = False,
    windows: WindowOptions,
    batch_size: BatchSize = 32,
    opened: ModelOptions,
    hub: HubOptions,
) -> None:
    """Measure how well bundles rank, each in each precision, compared with the original order, with confidence intervals."""
    from ..evaluation.collection import Collection
    from ..evaluation.dataset import collection_of_dataset
    from ..evaluation.evaluate import evaluate, locked_folder
    from ..evaluation.measures import Measures
    from ..evaluation.open_passages import open_passages
    from ..evaluation.ranker_configs import ranker_configs
    from ..measurement.model_config import CANDIDATES, Options, model_configs

    check_standard_input(queries=queries, run=run, passages=passages, qrels=qrels)
    parsed = Measures.parse(measures)
    options = Options(batch_size=batch_size, windows=windows.windows(), **asdict(opened))
    if (first is None) != (keep is None):
        raise OptionError("--first BUNDLE and --keep N go together")
    named = [*bundles, *([] if first is None or first in bundles else [first])]
    precisions = [name.strip() for name in precision.split(",")]
    models = model_configs(named, precisions, options, **hub.for_bundles(named))
    of_each = len(precisions)
    begin = None if first is None else named.index(first) * of_each
    rows = ranker_configs(
        models[: len(bundles) * of_each],
        exact_top_k=exact.wanted(),
        first=[] if begin is None else models[begin : begin + of_each],
        keep=[] if keep is None else whole_numbers("--keep", keep),
    )
    if dataset is not None and (queries or passages or qrels):
        raise OptionError(
            "give --dataset, or --queries, --passages and --qrels, not both; --run and --store go with each"
        )
    if bm25 and run:
        raise OptionError("--bm25 makes a run, and --run gives one; leave out one of them")
    choice: dict[str, Any] = {
        "folder": out,
        "run": run or None,
        "depth": depth,
        "limit": limit,
        "progress": for_a_person(),
    }
    with locked_folder(out):
        if dataset is not None:
            collection = collection_of_dataset(dataset, store=store, bm25=bm25, **choice)
        elif queries and qrels:
            texts = open_passages(passages or None, store, progress=for_a_person())
            collection = Collection.from_files(queries=queries, qrels=qrels, passages=texts, **choice)
        else:
            raise OptionError("give --dataset ID, or --queries, --qrels and one of --passages and --store")
        result = evaluate(
            rows, collection, out, measures=parsed, baseline=baseline, restart=force, progress=for_a_person()
        )
    say(str(result))
    print(f"{out}: runs, queries.jsonl and result.json", file=sys.stderr)
    _warn_of_others(out, {CANDIDATES, *(row.label for row in rows)})


def _warn_of_others(folder: Path, labels: set[str]) -> None:
    """Print which runs of the folder are not in the result."""
    others = {run.name.removesuffix(".run.trec") for run in folder.glob("*.run.trec")} - labels
    if others:
        print(
            f"{folder}: there are earlier runs, which the result leaves out, of {', '.join(sorted(others))}",
            file=sys.stderr,
        )
