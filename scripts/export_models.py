#!/usr/bin/env python3
"""Export many checkpoints, continue after failures, and print a table of the outcomes."""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from crossrt.engine.process.child import crossrt_command

PUBLISHED = (
    "cross-encoder/ms-marco-TinyBERT-L-2-v2",
    "cross-encoder/ms-marco-MiniLM-L-2-v2",
    "cross-encoder/ms-marco-MiniLM-L-4-v2",
    "cross-encoder/ms-marco-MiniLM-L-6-v2",
    "cross-encoder/ms-marco-MiniLM-L-12-v2",
    "cross-encoder/ms-marco-TinyBERT-L-2",
    "cross-encoder/ms-marco-TinyBERT-L-4",
    "cross-encoder/ms-marco-TinyBERT-L-6",
    "cross-encoder/ms-marco-electra-base",
    "nboost/pt-tinybert-msmarco",
    "nboost/pt-bert-base-uncased-msmarco",
    "nboost/pt-bert-large-msmarco",
    "Capreolus/electra-base-msmarco",
    "amberoad/bert-multilingual-passage-reranking-msmarco",
    "sebastian-hofstaetter/distilbert-cat-margin_mse-T2-msmarco",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The outcome for one checkpoint. `error` is empty if it was exported."""

    source: str
    seconds: float
    peak_gb: float
    megabytes: float
    max_abs_diff: float | None
    error: str


def export(source: str, out: Path, *, force: bool) -> Outcome:
    """Export one checkpoint in a child process, so that its memory can be measured and is freed."""
    target = out / source.strip("/").replace("/", "__").lstrip(".")
    command = crossrt_command("export", source, str(target), *(["--force"] if force else []))
    start = time.monotonic()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        child = subprocess.Popen(command, stdout=said, stderr=said)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        lines = [line for line in said.read().splitlines() if line.startswith(("crossrt: ", "  FAILED"))]
    failed = child.returncode != 0
    report = {} if failed else json.loads((target / "parity.fp32.json").read_text())
    return Outcome(
        source=source,
        seconds=time.monotonic() - start,
        peak_gb=usage.ru_maxrss / 1e6,
        megabytes=0 if failed else sum(file.stat().st_size for file in target.rglob("*") if file.is_file()) / 1e6,
        max_abs_diff=report.get("max_abs_diff"),
        error=(lines[-1].removeprefix("crossrt: ") if lines else f"exit status {child.returncode}") if failed else "",
    )


def main(
    sources: Annotated[
        list[str] | None, typer.Argument(help="Hub ids or directories; all fifteen unless given.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Directory for the bundles.")] = Path("bundles"),
    force: Annotated[bool, typer.Option("--force", help="Replace bundles that are there.")] = False,
) -> None:
    """Export many checkpoints. Exit with 1 if any of them failed."""
    out.mkdir(parents=True, exist_ok=True)
    outcomes = []
    for source in sources or PUBLISHED:
        print(f"exporting {source}", file=sys.stderr, flush=True)
        outcomes.append(export(source, out, force=force))
    table = Table(box=None, pad_edge=False)
    for title in ("checkpoint", "MB", "seconds", "peak GB", "max |diff|", "outcome"):
        table.add_column(title, justify="left" if title in ("checkpoint", "outcome") else "right", overflow="fold")
    for outcome in outcomes:
        difference = "-" if outcome.max_abs_diff is None else f"{outcome.max_abs_diff:.1e}"
        table.add_row(
            outcome.source,
            f"{outcome.megabytes:,.0f}",
            f"{outcome.seconds:.0f}",
            f"{outcome.peak_gb:.1f}",
            difference,
            outcome.error or "exported, parity passed",
        )
    Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(table)
    raise typer.Exit(1 if any(outcome.error for outcome in outcomes) else 0)


if __name__ == "__main__":
    typer.run(main)
