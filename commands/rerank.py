"""`crossrt rerank`: a TREC run, scored again."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from tqdm import tqdm

from ..engine.errors import OptionError
from .app import app
from .arguments import as_typed
from .option_groups import with_option_groups
from .options import BatchSize, HubOptions, ModelOptions, Precision
from .output import for_a_person

if TYPE_CHECKING:
    from ..engine.activation import Floats
    from ..engine.cross_encoder import CrossEncoder
    from ..engine.store.passage_store import PassageStore


@app.command(
    epilog="Example:  crossrt rerank minilm-l6 --queries q.tsv --passages p.tsv --run bm25.trec --out minilm.trec"
)
@with_option_groups
def rerank(
    bundle: Annotated[str, typer.Argument(help="A bundle, a checkpoint directory or a hub id.")],
    *,
    queries: Annotated[Path, typer.Option(help="`id <tab> query` lines.")],
    run: Annotated[Path, typer.Option(help="The TREC run to rerank.")],
    out: Annotated[Path, typer.Option(help="The TREC run to write; - is standard output.")],
    passages: Annotated[Path | None, typer.Option(help="`id <tab> passage` lines,")] = None,
    store: Annotated[Path | None, typer.Option(help="or a store that `crossrt prepare` made of them.")] = None,
    depth: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Score and write only the best K candidates of each query, by the run's own scores; all by default.",
        ),
    ] = None,
    tag: Annotated[str, typer.Option(help="Name of the run in its last column.")] = "crossrt",
    batch_size: BatchSize = 32,
    precision: Precision = None,
    opened: ModelOptions,
    hub: HubOptions,
) -> None:
    """Rerank a TREC run: score its candidates again, and write the new run completely or not at all."""
    from ..engine.cross_encoder import CrossEncoder
    from ..engine.files.publish import published_file
    from ..engine.files.trec import read_candidates, read_collection, write_run
    from ..engine.store.passage_store import PassageStore

    tag = as_typed(tag, "--tag")
    if not tag or len(tag.split()) != 1:
        raise OptionError(f"--tag {tag!r}: give one word")
    if (passages is None) == (store is None):
        raise OptionError("give --passages or --store, one of them")
    source = hub.for_bundles([bundle])
    texts: PassageStore | dict[str, str]
    if store is not None:
        texts = PassageStore(store)
        query_texts, candidates = read_candidates(queries, run, depth=depth)
    else:
        assert passages is not None
        query_texts, texts, candidates = read_collection(queries, passages, run, depth=depth)
    total = sum(len(scores) for scores in candidates.values())
    with (
        CrossEncoder(bundle, precision=precision, **asdict(opened), **source) as model,
        published_file(out) as file,
        tqdm(total=total, desc="Reranking", unit="pair", disable=not for_a_person()) as bar,
    ):
        for query, scores in candidates.items():
            logits = _logits(model, query_texts[query], list(scores), texts, batch_size)
            relevance = model.relevance(logits)
            write_run(file, query, dict(zip(scores, relevance.tolist(), strict=True)), tag=tag)
            bar.update(len(scores))
    print(f"{out}: {len(candidates)} queries, {total} passages", file=sys.stderr)


def _logits(
    model: "CrossEncoder", query: str, ids: list[str], passages: "PassageStore | dict[str, str]", batch_size: int
) -> "Floats":
    """The logits of a query with these passages, float32 [n, labels]."""
    if isinstance(passages, dict):
        pairs = ((query, passages[name]) for name in ids)
        return model.logits(pairs, batch_size=batch_size, show_progress_bar=False)
    return model.logits_from(passages, query, ids, batch_size=batch_size)
