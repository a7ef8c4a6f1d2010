"""`crossrt rank` ranks the passages of files for one query."""

import glob
import os
from dataclasses import asdict
from typing import Annotated, Any

import typer

from ..engine.errors import DataFileError, OptionError
from .shared.app import app
from .shared.arguments import as_typed
from .shared.option_groups import with_option_groups
from .shared.options import BatchSize, CascadeOptions, Exact, HubOptions, ModelOptions, Precision, WindowOptions
from .shared.output import for_a_person, say, say_json


@app.command(
    epilog="Examples:  crossrt rank minilm-l6 'how tall is k2' passages.txt  |  ... | crossrt rank minilm-l6 'k2' - --json"
)
@with_option_groups
def rank(
    bundle: Annotated[str, typer.Argument(help="A bundle, a checkpoint directory or a hub id.")],
    query: Annotated[str, typer.Argument(help="The query.")],
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE]...",
            help="Passages: one on each line, `id <tab> text`, JSON Lines or Parquet; by default, and for -, standard input.",
        ),
    ] = None,
    *,
    top_k: Annotated[int | None, typer.Option(min=1, help="Show only the best K; all by default.")] = None,
    exact: Exact = None,
    cascade: CascadeOptions,
    windows: WindowOptions,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    batch_size: BatchSize = 32,
    precision: Precision = None,
    opened: ModelOptions,
    hub: HubOptions,
) -> None:
    """Rank the passages of files for one query."""
    from ..engine.cross_encoder import CrossEncoder
    from ..engine.files.source import STANDARD_INPUT

    cascade.check()
    source = hub.for_bundles(cascade.bundles(bundle))
    query = as_typed(query, "the query")
    if files and _swapped(query, files[0]):
        raise OptionError(f"there is no file {files[0]!r}, and the query {query!r} is a file; give the query first")
    ids, texts = _passages(files or [STANDARD_INPUT])
    opening = {"precision": precision, **asdict(opened), **source}
    shared = {
        "windows": windows.windows(),
        "batch_size": batch_size,
        "show_progress_bar": for_a_person() and len(texts) > 16,
    }
    with (
        CrossEncoder(bundle, **opening) as model,
        cascade.ranker(model, shared, **opening) as (ranker, rank_options),
    ):
        results = ranker.rank(query, texts, top_k=top_k, return_documents=True, exact=exact, **rank_options)
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


def _swapped(query: str, file: str) -> bool:
    """Tell whether the query is a file, and the file none: the arguments were given in the other order."""
    is_file = os.path.isfile(query)  # noqa: PTH113, Path.is_file raises for a long query
    return is_file and not os.path.lexists(file) and not glob.has_magic(file)


def _passages(words: list[str]) -> tuple[list[str], list[str]]:
    """Return ids and texts. Lines without an id, plain passages or JSON objects, are numbered. Raises DataFileError."""
    from ..engine.files.source import Source
    from ..engine.files.texts import check_columns, check_no_header, is_json, json_object, numbered_text, shown, text_of
    from ..engine.files.trec import FEW, ID

    source = Source.of(words)
    lines = list(source.lines())
    check_no_header(lines[0])
    objects = json_object(lines[0].text) is not None
    if objects or all("\t" in line.text for line in lines):
        found = [(objects and numbered_text(line, place)) or text_of(line) for place, line in enumerate(lines, start=1)]
        check_columns({text.tabs for text in found}, source, "`id <tab> text`")
        return [text.id for text in found], [text.text for text in found]
    texts = [line.text for line in lines]
    names = [text.partition("\t")[0] for text in texts if "\t" in text]
    if len(set(names)) == len(names) >= FEW and all(map(ID.fullmatch, names)):
        other = next(line for line in lines if "\t" not in line.text)
        raise DataFileError(
            f"{other.where}: expected `id <tab> text`, as in {len(names):,} other lines, got {shown(other.text)}"
        )
    if is_json(texts):
        raise DataFileError(
            f"{source} is JSON, which begins {texts[0][:60]!r}; expected one passage a line, `id <tab> text` on every line, or a "
            "JSON object on every line"
        )
    return [str(number) for number in range(1, len(texts) + 1)], texts


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, expand=True)  # else a long passage squeezes the other columns to nothing
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
