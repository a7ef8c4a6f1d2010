"""`crossrt tune` finds the fastest configuration for a bundle here, and keeps it for the next time the bundle is opened."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from tqdm import tqdm

from .shared.app import app
from .shared.options import Precision, Threads
from .shared.output import for_a_person, say

if TYPE_CHECKING:
    from ..engine.runtime.autotune import Candidate


@app.command(epilog="Example:  crossrt tune minilm-l6 --pairs pairs.tsv")
def tune(
    bundle: Annotated[Path, typer.Argument(help="The bundle.")],
    precision: Precision = None,
    threads: Threads = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            help="Real pairs to measure with, `query <tab> passage` lines; by default random words as long as MS MARCO's."
        ),
    ] = None,
) -> None:
    """Find the fastest backend, streams and batch size here, and keep them for this bundle and machine."""

    from ..calibration.calibration_set import CalibrationSet
    from ..engine.bundle.bundle import Bundle
    from ..engine.runtime.autotune import ROUNDS, candidates, fastest, tune
    from ..engine.selection.execution_config import CpuConfig
    from ..engine.selection.select import choose_execution
    from ..engine.selection.tuning import Tuning
    from ..engine.text.tokenizer import read_tokenizer
    from ..engine.text.typical_pairs import typical_pairs

    opened = Bundle.open(bundle)
    config = choose_execution(opened, precision=precision, device="cpu", threads=threads, tuned=False)
    assert isinstance(config, CpuConfig)
    if pairs is not None:
        texts = list(CalibrationSet.from_pairs_file(pairs, size=100).pairs)
    else:
        texts = typical_pairs(read_tokenizer(opened.tokenizer_file), 100)
    encoder = opened.pair_tokenizer()
    runs = len(candidates(opened, config)) * (ROUNDS + 1)
    with tqdm(total=runs, desc="Measuring", unit="run", disable=not for_a_person()) as bar:
        found = tune(opened, config, [encoder.encode(texts)], progress=bar.update)
    best = fastest(found)
    say("\n".join(_table(found, best)))
    kept = Tuning(backend=best.config.backend, streams=best.config.streams, batch_size=best.config.batch_size).store(
        opened, config.precision, config.threads
    )
    print(f"kept in {kept}", file=sys.stderr)


def _table(found: "Sequence[Candidate]", best: "Candidate") -> list[str]:
    lines = [f"{'backend':<12}streams  batch  pairs/s  ratio (lowest to highest)   mean |difference|"]
    for candidate in found:
        chosen = candidate.config
        note = "" if candidate.same_scores else "  other scores: not taken"
        lines.append(
            f"{chosen.backend:<12}{chosen.streams:>7}{chosen.batch_size:>7}{candidate.pairs_per_second:>9,.0f}"
            f"  {candidate.ratio:>5.2f} ({candidate.lowest:.2f} to {candidate.highest:.2f})"
            f"{candidate.mean_abs_diff:>22.1e}{'  <- kept' if candidate is best else note}"
        )
    return lines
