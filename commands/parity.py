"""`crossrt parity` compares a bundle's scores with its checkpoint's in PyTorch."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..engine.errors import DataFileError, OptionError
from ..engine.precision import Precision
from .shared.app import app
from .shared.arguments import check_standard_input, precisions_of
from .shared.option_groups import with_option_groups
from .shared.options import (
    ExecutionOptions,
    HubOptions,
    MaxLength,
    Pairs,
    Sample,
    TrecOptions,
    TrustEngines,
    user_pairs,
)
from .shared.output import for_a_person, say, say_json
from .shared.requirements import need_export

if TYPE_CHECKING:
    from ..calibration.judging_set import JudgingSet
    from .shared.options import TrecFiles


@app.command(
    epilog="Example:  crossrt parity minilm-l6 --against cross-encoder/ms-marco-MiniLM-L6-v2 --pairs pairs.tsv"
)
@with_option_groups
def parity(
    bundle: Annotated[Path, typer.Argument(help="The bundle to check.")],
    *,
    against: Annotated[str, typer.Option(help="The checkpoint: a directory or a hub id.")],
    pairs: Pairs = None,
    trec: TrecOptions,
    sample: Sample = None,
    qrels: Annotated[Path | None, typer.Option(help="TREC qrels, for nDCG@10 and RR@10 of the run's lists.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    precision: Annotated[
        str | None, typer.Option(help="Precisions to check, such as fp32,int8; fp32 by default.")
    ] = None,
    execution: ExecutionOptions,
    max_length: MaxLength = None,
    trust_engines: TrustEngines = False,
    hub: HubOptions,
) -> None:
    """Compare a bundle's scores with its checkpoint in PyTorch; exit 1 when they differ.

    A run with at least 20 queries of 50 candidates is judged as a ranking too. INT8 is judged only by its ranking: give such a
    run, or --pairs with at least 40 queries, which are made into lists as `crossrt export` does.
    """
    need_export()
    check_standard_input(**asdict(trec), qrels=qrels)
    files = trec.files(pairs=pairs)
    given = user_pairs(pairs, files, sample)
    directory, _ = hub.checkpoint(against)
    from ..calibration.judging_set import JudgingSet
    from ..engine.bundle.bundle import Bundle
    from ..engine.cross_encoder import CrossEncoder
    from ..export.checkpoint.checkpoint import Checkpoint
    from ..export.parity.pairs import builtin_pairs
    from ..export.parity.parity import judge_of
    from ..export.parity.parity import parity as compare

    Bundle.open(bundle)  # CrossEncoder would export a checkpoint
    judging = _judging(files, qrels)
    wanted = precisions_of(precision or "fp32")
    if judging is None and Precision.INT8 in wanted:
        if pairs is None:
            raise OptionError(
                "int8 is judged by how it ranks: give --queries, --passages and --run with at least 20 queries of 50 "
                "candidates, or --pairs with at least 40 queries"
            )
        judging = JudgingSet.pooled(given, source=pairs.name)
    judge = None
    reports = []
    for each in wanted:
        with CrossEncoder(
            bundle,
            precision=each,
            backend=execution.backend,
            device=execution.device,
            threads=execution.threads,
            max_length=max_length,
            trust_engines=trust_engines,
            allow_failed=True,  # a precision that failed may be checked again
        ) as model:
            made = model.bundle.manifest.source
            checkpoint = Checkpoint.read(directory, activation=made.get("chosen_activation"), hub=hub.for_base)
            checkpoint = checkpoint.with_relevant_label(made.get("chosen_relevant_label"))
            progress = for_a_person()
            if judging is not None and judge is None:
                judge = judge_of(checkpoint, judging, max_length=model.max_length, progress=progress)
            checked = [*builtin_pairs(model.max_length), *given]
            reports.append(compare(model, checkpoint, checked, judge=judge, progress=progress))
            others = [name for name in model.bundle.manifest.models if Precision(name) not in wanted]
            if not as_json:
                say(str(reports[-1]))
    if as_json:
        found = [json.loads(report.to_json()) for report in reports]
        say_json(found[0] if len(found) == 1 else found)
    elif others:
        say(f"not checked: {', '.join(others)} (--precision {','.join([*(each.value for each in wanted), *others])})")
    if not all(reports):
        raise typer.Exit(1)


def _judging(files: "TrecFiles | None", qrels: Path | None) -> "JudgingSet | None":
    """Return the run's lists, or None, with a warning, if they are too few or too short to judge a ranking."""
    from ..calibration.judging_set import JudgingSet
    from ..engine.files.source import Source
    from ..engine.files.trec import read_qrels

    if files is None:
        if qrels is not None:
            raise OptionError("--qrels goes with --queries, --passages and --run")
        return None
    judgments = None if qrels is None else Source.of(qrels)
    if judgments is not None:
        read_qrels(judgments)  # an error in them is more than a warning
    try:
        return JudgingSet.from_trec(*files, qrels=judgments)
    except DataFileError as error:
        print(f"warning: the ranking is not judged: {error}", file=sys.stderr)
        return None
