"""`crossrt bench`, `tune` and `report`: how fast bundles are here."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from ..engine.errors import OptionError
from .app import app, as_typed, for_a_person, say
from .options import (
    CacheFolder,
    Device,
    LocalFilesOnly,
    PassagesFile,
    Precision,
    QueriesFile,
    Revision,
    RunFile,
    Threads,
    Token,
    TrustEngines,
    hub_options,
)


@app.command(
    epilog="Examples:  crossrt bench minilm-l6 --precision fp32,int8 --backend onnxruntime,openvino --out speeds.json  |  "
    "crossrt bench --compare before.json after.json"
)
def bench(
    bundles: Annotated[list[str] | None, typer.Argument(help="Bundles, checkpoint directories or hub ids.")] = None,
    precision: Annotated[str, typer.Option(help="Precisions of every bundle, as fp32,int8.")] = "fp32",
    backend: Annotated[
        str, typer.Option(help="Backends of each, as onnxruntime,openvino; auto is what opens by itself.")
    ] = "auto",
    threads: Annotated[
        str | None, typer.Option(help="Numbers of threads, as 1,2; all usable processors unless given.")
    ] = None,
    device: Device = None,
    pairs: Annotated[
        Path | None,
        typer.Option(help="Real pairs to score, `query <tab> passage` lines; as long as MS MARCO's if none."),
    ] = None,
    queries: QueriesFile = None,
    passages: PassagesFile = None,
    run: RunFile = None,
    counts: Annotated[
        str, typer.Option(help="Passages of one query whose latency is measured; none for none.")
    ] = "1,10,100,1000",
    repeats: Annotated[int, typer.Option(help="Times that everything is measured, the rows in turns.")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="A glance: fewer of everything.")] = False,
    scaling: Annotated[
        bool,
        typer.Option("--scaling", help="Also over batch tokens, length of a pair and threads, with fitted curves."),
    ] = False,
    out: Annotated[Path | None, typer.Option(help="JSON file to keep the result in; - is standard output.")] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="BEFORE AFTER", help="Measure nothing: say what changed between two kept results."),
    ] = None,
    limit: Annotated[float, typer.Option(help="With --compare: percent that is too much worse; exit status 1.")] = 5,
    trust_engines: TrustEngines = False,
    revision: Revision = None,
    token: Token = None,
    cache_folder: CacheFolder = None,
    local_files_only: LocalFilesOnly = False,
) -> None:
    """Measure how fast bundles score here, beside the machine's own ceiling, or compare two such results."""
    if compare is not None:
        if bundles:
            raise OptionError("--compare takes two results and no bundles")
        _compare(compare, limit)
        return
    if not bundles:
        raise OptionError("give bundles to measure, or --compare BEFORE AFTER")
    from ..engine.files.publish import STANDARD_OUTPUT, published_file
    from ..speed.bench import bench
    from ..speed.ceiling import SECONDS
    from ..speed.lineup import lineup
    from ..speed.measure import Plan
    from ..speed.table import table_of
    from ..speed.texts import Texts

    if repeats < 1:
        raise OptionError(f"--repeats {repeats}: give a whole number from 1")
    if out is not None and not out.absolute().parent.is_dir():
        raise OptionError(f"--out {out}: there is no directory {out.absolute().parent}")
    sizes = [] if counts == "none" else _whole_numbers("--counts", counts)
    plan = Plan(counts=sizes, repeats=repeats)
    if quick:
        plan = Plan(counts=sizes, repeats=min(repeats, 3), lists=1, starts=2, least_requests=2, latency_s=0.5)
    rows = lineup(
        bundles,
        precisions=[name.strip() for name in precision.split(",")],
        backends=[name.strip() for name in backend.split(",")],
        threads=[] if threads is None else _whole_numbers("--threads", threads),
        device=device,
        trust_engines=trust_engines,
        **hub_options(bundles, revision, token, cache_folder, local_files_only),
    )
    trec = (queries, passages, run)
    if pairs is not None:
        if any(trec):
            raise OptionError("give --pairs, or --queries, --passages and --run, not both")
        texts = Texts.of_pairs(pairs)
    elif queries is not None and passages is not None and run is not None:
        texts = Texts.of_run(queries, passages, run)
    elif any(trec):
        raise OptionError("--queries, --passages and --run go together")
    else:
        texts = Texts.typical()
    stretch = SECONDS / 3 if quick else SECONDS
    result = bench(rows, texts, plan, scaling=scaling, stretch_s=stretch, progress=for_a_person())
    if out is not None:
        with published_file(out) as file:
            file.write(result.to_json())
    if out == STANDARD_OUTPUT:
        print(table_of(result), file=sys.stderr)
    else:
        say(table_of(result))


@app.command(epilog="Example:  crossrt tune minilm-l6 --pairs pairs.tsv")
def tune(
    bundle: Annotated[Path, typer.Argument(help="The bundle.")],
    precision: Precision = None,
    threads: Threads = None,
    pairs: Annotated[
        Path | None,
        typer.Option(help="Real pairs to measure with: `query <tab> passage` lines; as MS MARCO's if none."),
    ] = None,
) -> None:
    """Measure what is fastest here, backend, streams and batch, and keep it for this bundle and machine."""

    from ..calibration.calibration_set import CalibrationSet
    from ..engine.bundle.bundle import Bundle
    from ..engine.runtime.autotune import ROUNDS, candidates, fastest, tune
    from ..engine.runtime.select_cpu import choose_cpu
    from ..engine.runtime.tuning import Tuning
    from ..engine.text.tokenizer import read_tokenizer
    from ..engine.text.typical_pairs import typical_pairs

    opened = Bundle.open(bundle)
    config = choose_cpu(opened, precision=precision, threads=threads, tuned=False)
    if pairs is not None:
        texts = list(CalibrationSet.from_pairs_file(pairs, size=100).pairs)
    else:
        texts = typical_pairs(read_tokenizer(opened.tokenizer_file), 100)
    encoder = opened.pair_tokenizer()
    runs = len(candidates(opened, config)) * (ROUNDS + 1)
    with tqdm(total=runs, desc="Measuring", unit="run", disable=not for_a_person()) as bar:
        found = tune(opened, config, [encoder.encode(texts)], progress=bar.update)
    best = fastest(found)
    lines = [f"{'backend':<12}streams  batch  pairs/s  ratio (lowest to highest)   mean |difference|"]
    for candidate in found:
        chosen = candidate.config
        note = "" if candidate.same_scores else "  other scores: not taken"
        lines.append(
            f"{chosen.backend:<12}{chosen.streams:>7}{chosen.batch_size:>7}{candidate.pairs_per_second:>9,.0f}"
            f"  {candidate.ratio:>5.2f} ({candidate.lowest:.2f} to {candidate.highest:.2f})"
            f"{candidate.mean_abs_diff:>22.1e}{'  <- kept' if candidate is best else note}"
        )
    say("\n".join(lines))
    kept = Tuning(backend=best.config.backend, streams=best.config.streams, batch_size=best.config.batch_size).store(
        opened, config.precision, config.threads
    )
    print(f"kept in {kept}", file=sys.stderr)


@app.command(epilog="Example:  crossrt report quality speeds.json minilm-l6 -o report.html")
def report(
    results: Annotated[
        list[Path],
        typer.Argument(
            help="Results of crossrt evaluate, of crossrt bench and of benchmarks/cpu.py, and bundles, in any order."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write; - is standard output.")],
    title: Annotated[str | None, typer.Option(help="Its title.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is no such page.")] = False,
) -> None:
    """Show results as one page: tables, quality against speed, latencies, padding, parity and calibration."""
    from ..engine.files.publish import published_file

    _need_report()
    from ..report.page import TITLE, check_page, page_of
    from ..report.results import Results

    check_page(out, force=force)
    page = page_of(Results.read(results), title=TITLE if not title else as_typed(title, "--title"))
    with published_file(out) as file:
        file.write(page)
    print(f"{out}: {len(page.encode()) / 1e6:.1f} MB", file=sys.stderr)


def _compare(results: tuple[Path, Path], limit: float) -> None:
    from ..speed.compare import compare
    from ..speed.result import Speeds

    if not 0 <= limit < 100:
        raise OptionError(f"--limit {limit:g}: give a percentage from 0 to 100")
    before, after = (Speeds.read(path) for path in results)
    found = compare(before, after, limit=limit / 100)
    say(str(found))
    if not found:
        raise typer.Exit(1)


def _whole_numbers(option: str, text: str) -> list[int]:
    try:
        numbers = [int(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise OptionError(f"{option} {text!r}: give whole numbers from 1, as 1,2")
    return list(dict.fromkeys(numbers))


def _need_report() -> None:
    from importlib.util import find_spec

    from ..engine.errors import BackendError

    missing = [package for package in ("jinja2", "matplotlib", "pydantic") if find_spec(package) is None]
    if missing:
        raise BackendError(f'this needs {" and ".join(missing)}: pip install "crossrt[report]"')
