"""`crossrt bench` measures how fast bundles are here, or shows what changed between two results."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..engine.errors import OptionError
from .shared.app import app
from .shared.arguments import check_output_is_no_input, refuse, whole_numbers
from .shared.option_groups import with_option_groups
from .shared.options import Device, ExactRowOptions, HubOptions, TrecOptions, TrustEngines
from .shared.output import for_a_person, say

if TYPE_CHECKING:
    from ..speed.measure import Plan
    from ..speed.texts import Texts


COUNTS, REPEATS = "1,10,100,1000", 5
"""Defaults of --counts and --repeats."""


@app.command(
    epilog="Examples:  crossrt bench minilm-l6 --precision fp32,int8 --backend onnxruntime,openvino --out speeds.json  |  "
    "crossrt bench --compare before.json after.json"
)
@with_option_groups
def bench(
    bundles: Annotated[list[str] | None, typer.Argument(help="Bundles, checkpoint directories or hub ids.")] = None,
    *,
    precision: Annotated[str, typer.Option(help="Precisions of every bundle, such as fp32,int8.")] = "fp32",
    backend: Annotated[
        str, typer.Option(help="Backends of each, such as onnxruntime,openvino; auto is the one that opens by default.")
    ] = "auto",
    threads: Annotated[
        str | None, typer.Option(help="Numbers of threads, such as 1,2; by default one for each usable processor.")
    ] = None,
    device: Device = None,
    exact: ExactRowOptions,
    pairs: Annotated[
        Path | None,
        typer.Option(
            help="Real pairs to score, `query <tab> passage` lines; by default random words as long as MS MARCO's."
        ),
    ] = None,
    trec: TrecOptions,
    counts: Annotated[
        str, typer.Option(help="Numbers of passages per query to measure latency with; none for no latency.")
    ] = COUNTS,
    repeats: Annotated[int, typer.Option(help="How often everything is measured, with the rows in turns.")] = REPEATS,
    quick: Annotated[bool, typer.Option("--quick", help="A quick look, with fewer repeats of everything.")] = False,
    scaling: Annotated[
        bool,
        typer.Option("--scaling", help="Measure also over batch tokens, pair length and threads, and fit curves."),
    ] = False,
    out: Annotated[Path | None, typer.Option(help="JSON file to write the result to; - is standard output.")] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="BEFORE AFTER", help="Measure nothing; print what changed between two results."),
    ] = None,
    limit: Annotated[
        float | None,
        typer.Option(
            help="With --compare: exit with status 1 when something is worse by more than this percentage; 5 by default."
        ),
    ] = None,
    trust_engines: TrustEngines = False,
    hub: HubOptions,
) -> None:
    """Measure how fast bundles score here, compared with the machine's own ceiling, or compare two such results."""
    if compare is not None:
        if bundles:
            raise OptionError("--compare takes two results and no bundles")
        refuse(
            "--compare measures nothing, and takes --limit alone",
            precision=precision != "fp32",
            backend=backend != "auto",
            threads=threads,
            pairs=pairs,
            out=out,
            device=device,
            counts=counts != COUNTS,
            repeats=repeats != REPEATS,
            quick=quick,
            scaling=scaling,
            trust_engines=trust_engines,
            **asdict(exact),
            **asdict(trec),
            **asdict(hub),
        )
        _compare(compare, 5 if limit is None else limit)
        return
    refuse("it goes with --compare", limit=limit)
    if not bundles:
        raise OptionError("give bundles to measure, or --compare BEFORE AFTER")
    from ..engine.files.publish import STANDARD_OUTPUT, check_file, published_file
    from ..speed.bench import bench
    from ..speed.bench_configs import bench_configs
    from ..speed.ceiling.ceilings import SECONDS
    from ..speed.result.table import table_of

    if repeats < 1:
        raise OptionError(f"--repeats {repeats}: give a whole number from 1")
    if out is not None:
        check_file(out)
        check_output_is_no_input(out, pairs=pairs, **asdict(trec))
    plan = _plan(counts, repeats, quick=quick)
    rows = bench_configs(
        bundles,
        precisions=[name.strip() for name in precision.split(",")],
        backends=[name.strip() for name in backend.split(",")],
        threads=[] if threads is None else whole_numbers("--threads", threads),
        device=device,
        exact_top_k=exact.wanted(),
        trust_engines=trust_engines,
        **hub.for_bundles(bundles),
    )
    texts = _texts(pairs, trec)
    stretch = SECONDS / 3 if quick else SECONDS
    result = bench(rows, texts, plan, scaling=scaling, stretch_s=stretch, progress=for_a_person())
    if out is not None:
        with published_file(out) as file:
            file.write(result.to_json())
    if out == STANDARD_OUTPUT:
        print(table_of(result), file=sys.stderr)
    else:
        say(table_of(result))


def _plan(counts: str, repeats: int, *, quick: bool) -> "Plan":
    from ..speed.measure import Plan

    sizes = [] if counts == "none" else whole_numbers("--counts", counts)
    if quick:
        return Plan(counts=sizes, repeats=min(repeats, 3), lists=1, starts=2, judged=0, least_requests=2, latency_s=0.5)
    return Plan(counts=sizes, repeats=repeats)


def _texts(pairs: Path | None, trec: TrecOptions) -> "Texts":
    from ..speed.texts import Texts

    files = trec.files(pairs=pairs)
    if files is not None:
        return Texts.of_run(*files)
    return Texts.typical() if pairs is None else Texts.of_pairs(pairs)


def _compare(results: tuple[Path, Path], limit: float) -> None:
    from ..speed.result.compare import compare
    from ..speed.result.speeds import Speeds

    if not 0 <= limit < 100:
        raise OptionError(f"--limit {limit:g}: give a percentage from 0 to 100")
    before, after = (Speeds.read(path) for path in results)
    found = compare(before, after, limit=limit / 100)
    say(str(found))
    if not found:
        raise typer.Exit(1)
