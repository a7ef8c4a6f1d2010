"""`crossrt rank`: the passages of a file, ranked for one query."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ..engine.errors import DataFileError
from .shared.app import app
from .shared.arguments import as_typed
from .shared.option_groups import with_option_groups
from .shared.options import BatchSize, Exact, HubOptions, ModelOptions, Precision, WindowOptions
from .shared.output import for_a_person, say, say_json


@app.command(
    epilog="Examples:  crossrt rank minilm-l6 'how tall is k2' passages.txt  |  ... | crossrt rank minilm-l6 'k2' - --json"
)
@with_option_groups
def rank(
    bundle: Annotated[str, typer.Argument(help="A bundle, a checkpoint directory or a hub id.")],
    query: Annotated[str, typer.Argument(help="The query.")],
    file: Annotated[
        str, typer.Argument(help="Passages, one per line, or `id <tab> text` on every line; - is stdin.")
    ] = "-",
    *,
    top_k: Annotated[int | None, typer.Option(help="Show only the best K.")] = None,
    exact: Exact = None,
    windows: WindowOptions,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    batch_size: BatchSize = 32,
    precision: Precision = None,
    opened: ModelOptions,
    hub: HubOptions,
) -> None:
    """Rank the passages of a file for one query."""
    from ..engine.cross_encoder import CrossEncoder

    source = hub.for_bundles([bundle])
    query = as_typed(query, "the query")
    ids, texts = _passages(file)
    with CrossEncoder(bundle, precision=precision, **asdict(opened), **source) as model:
        results = model.rank(
            query,
            texts,
            top_k=top_k,
            return_documents=True,
            exact=exact,
            windows=windows.windows(),
            batch_size=batch_size,
            show_progress_bar=for_a_person() and len(texts) > 16,
        )
    rows = [
        {
            "rank": place,
            "id": ids[result["corpus_id"]],
            "score": result["score"],
            "text": result["text"],
            **({"window": result["window"]} if "window" in result else {}),
        }
        for place, result in enumerate(results, start=1)
    ]
    if as_json:
        say_json(rows)
    else:
        _print_table(rows)


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
