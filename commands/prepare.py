"""`crossrt prepare` tokenizes a collection once."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from .shared.app import app
from .shared.options import TEXTS
from .shared.output import for_a_person, size_of


@app.command(epilog="Example:  crossrt prepare minilm-l6 collection.tsv collection.store")
def prepare(
    bundle: Annotated[Path, typer.Argument(help="A bundle; every model with the same tokenizer can use the store.")],
    passages: Annotated[
        list[str],
        typer.Argument(help=f"Passages: {TEXTS}; several files or a pattern are read one after the other."),
    ],
    store: Annotated[Path, typer.Argument(help="The store to make.")],
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Keep at most so many tokens of each passage; all by default, which windows need."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing store, atomically.")] = False,
) -> None:
    """Tokenize a collection once, for `rerank --store`. An interrupted run continues when it is started again."""
    from ..engine.bundle.bundle import Bundle
    from ..engine.store.preparation import WHOLE, prepare
    from ..engine.text.tokenizer import read_tokenizer

    opened = Bundle.open(bundle)
    made = prepare(
        passages,
        store,
        read_tokenizer(opened.tokenizer_file),
        tokenizer_sha256=opened.tokenizer_sha256,
        limit=WHOLE if limit is None else limit,
        truncation_side=opened.manifest.truncation_side,
        force=force,
        progress=for_a_person(),
    )
    print(f"{store}: {len(made):,} passages, {made.description.tokens:,} tokens, {size_of(store)}", file=sys.stderr)
