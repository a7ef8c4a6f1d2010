"""The command line: parses words, calls one function, prints."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm import tqdm

from . import __version__
from .engine.errors import CrossrtError, DataFileError, OptionError, ParityError
from .engine.precision import Precision as Precisions

app = typer.Typer(
    help="MS MARCO cross-encoders, exported with proof and run fast.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Precision = Annotated[str | None, typer.Option(help="fp32, bf16, fp16, int8, or auto: the fastest that passed parity.")]
Backend = Annotated[str, typer.Option(help="auto, onnxruntime, openvino, native or tensorrt.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1; a GPU that can, else the CPU.")]
Threads = Annotated[int | None, typer.Option(help="Threads; all usable processors unless given.")]
MaxLength = Annotated[int | None, typer.Option(help="Longest pair in tokens; the model's own unless given.")]
BatchSize = Annotated[int, typer.Option(help="Most pairs computed together.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")]
Token = Annotated[str | None, typer.Option(help="Hub token, for private repositories.")]
CacheFolder = Annotated[Path | None, typer.Option(help="Where hub files are kept.")]
LocalFilesOnly = Annotated[bool, typer.Option("--local-files-only", help="Do not ask the hub.")]
PairsFile = Annotated[Path | None, typer.Option(help="Real pairs to check besides: `query <tab> passage` lines.")]
QueriesFile = Annotated[Path | None, typer.Option(help="Or as TREC files: `id <tab> query` lines,")]
PassagesFile = Annotated[Path | None, typer.Option(help="`id <tab> passage` lines,")]
RunFile = Annotated[Path | None, typer.Option(help="and a TREC run over them.")]
Workspace = Annotated[int, typer.Option(help="Most device memory in MiB that a TensorRT kernel may use while it runs.")]
OptimizationLevel = Annotated[
    int | None, typer.Option(help="How long TensorRT looks for kernels, 0 to 5; its own default unless given.")
]
TimingCache = Annotated[
    Path | None, typer.Option(help="File of what TensorRT has measured of kernels; in the user's cache unless given.")
]
HardwareCompatible = Annotated[
    bool, typer.Option("--hardware-compatible", help="Engines for every GPU from Ampere on; slower.")
]
VersionCompatible = Annotated[
    bool, typer.Option("--version-compatible", help="Engines for later TensorRTs of the same major version; slower.")
]
Refittable = Annotated[
    bool, typer.Option("--refittable", help="Engines that take the weights of a fine-tuned copy: see --refit-from.")
]
Sample = Annotated[int | None, typer.Option(help="Check a seeded sample of this many of them.")]


def _print_version(value: bool) -> None:
    if value:
        _say(f"crossrt {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and stop.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """MS MARCO cross-encoders, exported with proof and run fast."""


@app.command(
    epilog="Examples:  crossrt export cross-encoder/ms-marco-MiniLM-L6-v2 minilm-l6  |  "
    "crossrt export ./my-finetuned out --pairs pairs.tsv"
)
def export(
    source: Annotated[str, typer.Argument(help="A checkpoint directory or a hub id.")],
    out: Annotated[Path, typer.Argument(help="The bundle to make.")],
    precision: Annotated[
        str,
        typer.Option(help="Precisions to hold, of fp32, bf16, fp16 and int8, with commas; fp32 is always among them."),
    ] = "fp32",
    calibrate: Annotated[
        Path | None,
        typer.Option(help="Real pairs, `query <tab> passage` lines, on which FP16 and INT8 decide what they can hold,"),
    ] = None,
    calibrate_run: Annotated[
        tuple[Path, Path, Path] | None, typer.Option(metavar="QUERIES PASSAGES RUN", help="or as TREC files.")
    ] = None,
    judge: Annotated[
        tuple[Path, Path, Path] | None,
        typer.Option(metavar="QUERIES PASSAGES RUN", help="Lists whose order must be kept, of other queries."),
    ] = None,
    judge_qrels: Annotated[Path | None, typer.Option(help="Their TREC qrels, for nDCG@10 and RR@10.")] = None,
    recipe: Annotated[str, typer.Option(help="What INT8 holds in 8 bits: projections, full or ffn.")] = "projections",
    method: Annotated[
        str, typer.Option(help="How INT8 chooses ranges: token, minmax, percentile, entropy or mse.")
    ] = "token",
    smoothing: Annotated[float | None, typer.Option(help="SmoothQuant's alpha, 0 to 1; by the method.")] = None,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Bundle FP16 and INT8 also when they fail, marked as failed.")
    ] = False,
    exporter: Annotated[
        str, typer.Option(help="auto, crossrt, optimum, or existing: the directory's own ONNX file.")
    ] = "auto",
    activation: Annotated[
        str | None, typer.Option(help="Use this one, not the checkpoint's: identity, sigmoid, ...")
    ] = None,
    tensorrt: Annotated[
        bool, typer.Option("--tensorrt", help="Build TensorRT engines too, for the GPU that is here.")
    ] = False,
    workspace: Workspace = 4096,
    optimization_level: OptimizationLevel = None,
    timing_cache: TimingCache = None,
    hardware_compatible: HardwareCompatible = False,
    version_compatible: VersionCompatible = False,
    refittable: Refittable = False,
    pairs: PairsFile = None,
    queries: QueriesFile = None,
    passages: PassagesFile = None,
    run: RunFile = None,
    sample: Sample = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bundle, in one step.")] = False,
    revision: Revision = None,
    token: Token = None,
    cache_folder: CacheFolder = None,
    local_files_only: LocalFilesOnly = False,
    source_id: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Export a PyTorch cross-encoder to a bundle, and prove it against the PyTorch logits."""
    from .engine.publish import check_target
    from .engine.source import can_export
    from .export.existing import bundle_from_onnx, existing_onnx

    precisions = [Precisions.parse(name.strip()) for name in precision.split(",")]
    if exporter not in ("auto", "crossrt", "optimum", "existing"):
        raise OptionError(f"unknown exporter {exporter!r}; one of auto, crossrt, optimum, existing")
    check_target(out, force=force)
    options = _building(
        workspace, optimization_level, timing_cache, hardware_compatible, version_compatible, refittable
    )
    if not tensorrt and options != _building():
        raise OptionError("--workspace and the other options of building engines go with --tensorrt")
    if tensorrt:
        _need_export()
        from .export.engines import here

        here()  # what is missing is better known before the export than after
    directory, revision = _checkpoint_directory(
        source, revision, token, cache_folder, local_files_only, onnx=exporter == "existing"
    )
    if exporter == "auto":
        has_weights = any((directory / name).is_file() for name in ("model.safetensors", "pytorch_model.bin"))
        exporter = "existing" if existing_onnx(directory) and not (has_weights and can_export()) else "crossrt"
    source_id = source_id or (str(source) if not Path(source).is_dir() else directory.resolve().name)
    if exporter == "existing":
        if precisions != [Precisions.FP32]:
            raise OptionError(f"--precision {precision}: an ONNX file that is there already is taken as it is, in fp32")
        bundle = bundle_from_onnx(
            directory, out, source_id=source_id, revision=revision, activation=activation, force=force
        )
        _say(f"{out}: {_size(bundle.path)}, from the ONNX file of {source_id}; its parity was not checked.")
        _say(f"Check it where PyTorch is installed: crossrt parity {out} --against {source}")
        return
    _need_export()
    from .calibration.judging_set import JudgingSet
    from .calibration.recipe import Recipe
    from .export.checkpoint import Checkpoint
    from .export.export import export_bundle

    user_pairs = _user_pairs(pairs, queries, passages, run, sample)
    calibration = _calibration(calibrate, calibrate_run)
    judging = None if judge is None else JudgingSet.from_trec(*judge, qrels=judge_qrels)
    if judge_qrels is not None and judge is None:
        raise OptionError("--judge-qrels goes with --judge QUERIES PASSAGES RUN")
    chosen = Recipe(parts=recipe, method=method, smoothing=smoothing)
    if calibration is None and {Precisions.FP16, Precisions.INT8} & set(precisions):
        print(
            "warning: what FP16 and INT8 can hold is decided on the built-in pairs alone; give real ones of your own "
            "kind, at least 40 queries with several passages each, with --calibrate",
            file=sys.stderr,
        )
    checkpoint = Checkpoint.read(directory, activation=activation)
    if checkpoint.leftover:
        print(f"warning: tensors that the model does not use: {', '.join(checkpoint.leftover)}", file=sys.stderr)
    bundle, reports = export_bundle(
        checkpoint,
        out,
        source_id=source_id,
        revision=revision,
        activation=activation,
        exporter=exporter,
        precisions=precisions,
        pairs=user_pairs,
        calibration=calibration,
        judging=judging,
        recipe=chosen,
        keep_going=keep_going,
        force=force,
        progress=_for_a_person(),
    )
    for report in reports:
        _say(str(report))
    if tensorrt:
        lengths_of = calibration.pairs if calibration else user_pairs
        bundle = _with_engines(bundle, precisions, lengths_of, options, judging=judging)
    _say(f"{bundle.path}: {_size(bundle.path)}")


@app.command(epilog="Example:  crossrt engines minilm-l6 --precision fp16,int8 --pairs pairs.tsv")
def engines(
    bundle: Annotated[Path, typer.Argument(help="The bundle.")],
    precision: Annotated[str, typer.Option(help="Precisions to build, as fp16,int8.")] = "fp16",
    pairs: Annotated[
        Path | None, typer.Option(help="Real pairs, `query <tab> passage` lines, whose lengths kernels are chosen for.")
    ] = None,
    device: Annotated[str, typer.Option(help="The GPU, as cuda:1.")] = "cuda:0",
    max_length: Annotated[
        int | None, typer.Option(help="Longest pair in tokens that the engine takes; all positions unless given.")
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(help="Tokens of the largest batch; fewer take less memory. 16384 unless given.")
    ] = None,
    cache: Annotated[
        bool,
        typer.Option(
            "--cache", help="Leave the bundle as it is: put them into the user's cache, where it is looked too."
        ),
    ] = False,
    refit_from: Annotated[
        Path | None,
        typer.Option(help="A bundle of the same shape whose --refittable engine takes this one's weights, in seconds."),
    ] = None,
    workspace: Workspace = 4096,
    optimization_level: OptimizationLevel = None,
    timing_cache: TimingCache = None,
    hardware_compatible: HardwareCompatible = False,
    version_compatible: VersionCompatible = False,
    refittable: Refittable = False,
) -> None:
    """Build TensorRT engines of a bundle for the GPU that is here, check them on it, and put them into the bundle."""
    from .engine.bundle import Bundle
    from .engine.gpu import ordinals_of
    from .export.engines import here

    options = _building(
        workspace, optimization_level, timing_cache, hardware_compatible, version_compatible, refittable
    )
    if refit_from is not None and (cache or pairs or max_length or tokens or options != _building()):
        raise OptionError(
            "--refit-from takes an engine as it was built: leave out the options of building, and --cache"
        )
    [ordinal] = ordinals_of(device)
    here(ordinal)
    precisions = [Precisions.parse(name.strip()) for name in precision.split(",")]
    _with_engines(
        Bundle.open(bundle),
        precisions,
        _user_pairs(pairs, None, None, None, None),
        options,
        device=ordinal,
        max_length=max_length,
        cache=cache,
        refit_from=None if refit_from is None else Bundle.open(refit_from),
        **({} if tokens is None else {"tokens": tokens}),
    )


@app.command(
    epilog="Example:  crossrt parity minilm-l6 --against cross-encoder/ms-marco-MiniLM-L6-v2 --pairs pairs.tsv"
)
def parity(
    bundle: Annotated[Path, typer.Argument(help="The bundle to check.")],
    against: Annotated[str, typer.Option(help="The checkpoint: a directory or a hub id.")],
    pairs: PairsFile = None,
    queries: QueriesFile = None,
    passages: PassagesFile = None,
    run: RunFile = None,
    sample: Sample = None,
    qrels: Annotated[Path | None, typer.Option(help="TREC qrels, for nDCG@10 and RR@10 of the run's lists.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    precision: Precision = None,
    backend: Backend = "auto",
    device: Device = None,
    threads: Threads = None,
    max_length: MaxLength = None,
    revision: Revision = None,
    token: Token = None,
    cache_folder: CacheFolder = None,
    local_files_only: LocalFilesOnly = False,
) -> None:
    """Compare a bundle's scores with its checkpoint in PyTorch; exit 1 when they differ.

    A run with at least 20 queries of 50 candidates is judged as a ranking too, which INT8 needs.
    """
    _need_export()
    user_pairs = _user_pairs(pairs, queries, passages, run, sample)
    directory, _ = _checkpoint_directory(against, revision, token, cache_folder, local_files_only)
    from .engine.bundle import Bundle
    from .engine.cross_encoder import CrossEncoder
    from .export.checkpoint import Checkpoint
    from .export.pairs import builtin_pairs
    from .export.parity import judge_of
    from .export.parity import parity as compare

    Bundle.open(bundle)
    judging = _judging(queries, passages, run, qrels)
    with CrossEncoder(
        bundle,
        precision=precision,
        backend=backend,
        device=device,
        threads=threads,
        max_length=max_length,
        allow_failed=True,  # a precision that failed may be checked again
    ) as model:
        checkpoint = Checkpoint.read(directory, activation=model.bundle.manifest.source.get("chosen_activation"))
        progress = _for_a_person()
        judge = judging and judge_of(checkpoint, judging, max_length=model.max_length, progress=progress)
        checked = [*builtin_pairs(model.max_length), *user_pairs]
        report = compare(model, checkpoint, checked, judge=judge, progress=progress)
    _say(report.to_json() if as_json else str(report))
    if not report:
        raise typer.Exit(1)


@app.command(
    epilog="Examples:  crossrt rank minilm-l6 'how tall is k2' passages.txt  |  ... | crossrt rank minilm-l6 'k2' - --json"
)
def rank(
    bundle: Annotated[str, typer.Argument(help="A bundle, a checkpoint directory or a hub id.")],
    query: Annotated[str, typer.Argument(help="The query.")],
    file: Annotated[
        str, typer.Argument(help="Passages one a line, or `id <tab> text` on every line; - is stdin.")
    ] = "-",
    top_k: Annotated[int | None, typer.Option(help="Show the best K alone.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    batch_size: BatchSize = 32,
    precision: Precision = None,
    backend: Backend = "auto",
    device: Device = None,
    threads: Threads = None,
    max_length: MaxLength = None,
) -> None:
    """Rank the passages of a file for one query."""
    from .engine.cross_encoder import CrossEncoder

    ids, texts = _passages(file)
    with CrossEncoder(
        bundle, precision=precision, backend=backend, device=device, threads=threads, max_length=max_length
    ) as model:
        results = model.rank(
            query,
            texts,
            top_k=top_k,
            return_documents=True,
            batch_size=batch_size,
            show_progress_bar=_for_a_person() and len(texts) > 16,
        )
    rows = [
        {"rank": place, "id": ids[result["corpus_id"]], "score": result["score"], "text": result["text"]}
        for place, result in enumerate(results, start=1)
    ]
    if as_json:
        _say(json.dumps(rows, ensure_ascii=False, indent=1))
    else:
        _print_table(rows)


@app.command(
    epilog="Example:  crossrt rerank minilm-l6 --queries q.tsv --passages p.tsv --run bm25.trec --out minilm.trec"
)
def rerank(
    bundle: Annotated[str, typer.Argument(help="A bundle, a checkpoint directory or a hub id.")],
    queries: Annotated[Path, typer.Option(help="`id <tab> query` lines.")],
    run: Annotated[Path, typer.Option(help="The TREC run to rerank.")],
    out: Annotated[Path, typer.Option(help="The TREC run to write.")],
    passages: Annotated[Path | None, typer.Option(help="`id <tab> passage` lines,")] = None,
    store: Annotated[Path | None, typer.Option(help="or what `crossrt prepare` made of them.")] = None,
    tag: Annotated[str, typer.Option(help="Name of the run in its last column.")] = "crossrt",
    batch_size: BatchSize = 32,
    precision: Precision = None,
    backend: Backend = "auto",
    device: Device = None,
    threads: Threads = None,
    max_length: MaxLength = None,
) -> None:
    """Rerank a TREC run: every candidate is scored again, and the new run is written whole or not at all."""
    from .engine.cross_encoder import CrossEncoder
    from .engine.passages import PassageStore
    from .engine.publish import published_file
    from .engine.trec import read_candidates, read_collection, write_run

    if not tag or len(tag.split()) != 1:
        raise OptionError(f"--tag {tag!r}: give one word")
    if (passages is None) == (store is None):
        raise OptionError("give --passages or --store, one of them")
    prepared = None if store is None else PassageStore(store)
    passage_texts: dict[str, str] = {}
    if passages is None:
        query_texts, candidates = read_candidates(queries, run)
    else:
        query_texts, passage_texts, candidates = read_collection(queries, passages, run)
    total = sum(len(scores) for scores in candidates.values())
    with (
        CrossEncoder(
            bundle, precision=precision, backend=backend, device=device, threads=threads, max_length=max_length
        ) as model,
        published_file(out) as file,
        tqdm(total=total, desc="Reranking", unit="pair", disable=not _for_a_person()) as bar,
    ):
        for query, scores in candidates.items():
            if prepared is not None:
                logits = model.logits_from(prepared, query_texts[query], list(scores), batch_size=batch_size)
            else:
                texts = ((query_texts[query], passage_texts[passage]) for passage in scores)
                logits = model.logits(texts, batch_size=batch_size, show_progress_bar=False)
            relevance = model.relevance(logits)
            write_run(file, query, dict(zip(scores, relevance.tolist(), strict=True)), tag=tag)
            bar.update(len(scores))
    print(f"{out}: {len(candidates)} queries, {total} passages", file=sys.stderr)


@app.command(
    epilog="Examples:  crossrt evaluate minilm-l6 --precision fp32,int8 --queries q.tsv --passages p.tsv --run bm25.trec "
    "--qrels qrels.txt --out quality  |  crossrt evaluate minilm-l6 --dataset beir/scifact/test --out scifact"
)
def evaluate(
    bundles: Annotated[list[str], typer.Argument(help="Bundles, checkpoint directories or hub ids.")],
    out: Annotated[
        Path,
        typer.Option(help="Directory for runs, measures of every query and result.json; goes on with what is there."),
    ],
    dataset: Annotated[str | None, typer.Option(help="An id of ir_datasets, as msmarco-passage/dev/small,")] = None,
    queries: Annotated[Path | None, typer.Option(help="or files: `id <tab> query` lines,")] = None,
    passages: Annotated[Path | None, typer.Option(help="`id <tab> passage` lines,")] = None,
    store: Annotated[Path | None, typer.Option(help="or what `crossrt prepare` made of them,")] = None,
    qrels: Annotated[Path | None, typer.Option(help="and TREC qrels.")] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            help="The TREC run to rerank; the data set's own candidates if none, or else a BM25 run made here."
        ),
    ] = None,
    bm25: Annotated[
        bool, typer.Option("--bm25", help="Make a BM25 run also where the data set has candidates.")
    ] = False,
    precision: Annotated[str, typer.Option(help="Precisions of every bundle, as fp32,int8.")] = "fp32",
    measures: Annotated[str, typer.Option(help="As ir_measures names them.")] = "nDCG@10 RR@10 AP R@100",
    baseline: Annotated[
        str | None,
        typer.Option(help="What the others are compared with: BUNDLE.PRECISION, the first if none, or candidates."),
    ] = None,
    depth: Annotated[
        int | None, typer.Option(help="Rerank the best K candidates of each query; all if none, 100 of a BM25 run.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first N judged queries, for a try-out.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Start anew: throw away the runs that are there.")] = False,
    batch_size: BatchSize = 32,
    backend: Backend = "auto",
    device: Device = None,
    threads: Threads = None,
    max_length: MaxLength = None,
) -> None:
    """Measure how well bundles rank: each in each precision, beside the candidates as they came, with intervals."""
    from .evaluation.collection import Collection, open_passages
    from .evaluation.dataset import collection_of_dataset
    from .evaluation.evaluate import evaluate, opened_folder
    from .evaluation.measures import Measures
    from .evaluation.system import Options, systems_of

    parsed = Measures.parse(measures)
    options = Options(backend=backend, device=device, threads=threads, max_length=max_length, batch_size=batch_size)
    systems = systems_of(bundles, [name.strip() for name in precision.split(",")], options)
    if dataset is not None and (queries or passages or qrels):
        raise OptionError(
            "give --dataset, or --queries, --passages and --qrels, not both; --run and --store go with each"
        )
    choice: dict[str, Any] = {"folder": out, "run": run, "depth": depth, "limit": limit, "progress": _for_a_person()}
    with opened_folder(out):
        if dataset is not None:
            collection = collection_of_dataset(dataset, store=store, bm25=bm25, **choice)
        elif queries is not None and qrels is not None:
            opened = open_passages(passages, store, progress=_for_a_person())
            collection = Collection.from_files(queries=queries, qrels=qrels, passages=opened, **choice)
        else:
            raise OptionError("give --dataset ID, or --queries, --qrels and one of --passages and --store")
        result = evaluate(
            systems, collection, out, measures=parsed, baseline=baseline, restart=force, progress=_for_a_person()
        )
    _say(str(result))
    print(f"{out}: runs, queries.jsonl and result.json", file=sys.stderr)


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
    out: Annotated[Path | None, typer.Option(help="JSON file to keep the result in.")] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="BEFORE AFTER", help="Measure nothing: say what changed between two kept results."),
    ] = None,
    limit: Annotated[float, typer.Option(help="With --compare: percent that is too much worse; exit status 1.")] = 5,
) -> None:
    """Measure how fast bundles score here, beside the machine's own ceiling, or compare two such results."""
    if compare is not None:
        if bundles:
            raise OptionError("--compare takes two results and no bundles")
        _compare(compare, limit)
        return
    if not bundles:
        raise OptionError("give bundles to measure, or --compare BEFORE AFTER")
    from .engine.publish import published_file
    from .speed.bench import bench
    from .speed.ceiling import SECONDS
    from .speed.lineup import lineup
    from .speed.measure import Plan
    from .speed.texts import Texts

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
    result = bench(rows, texts, plan, scaling=scaling, stretch_s=stretch, progress=_for_a_person())
    if out is not None:
        with published_file(out) as file:
            file.write(result.to_json())
    _say(str(result))


@app.command(epilog="Example:  crossrt report quality speeds.json minilm-l6 -o report.html")
def report(
    results: Annotated[
        list[Path],
        typer.Argument(
            help="Results of crossrt evaluate, of crossrt bench and of benchmarks/cpu.py, and bundles, in any order."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write.")],
    title: Annotated[str | None, typer.Option(help="Its title.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is no such page.")] = False,
) -> None:
    """Show results as one page: tables, quality against speed, latencies, padding, parity and calibration."""
    from .engine.publish import published_file

    _need_report()
    from .report.page import TITLE, check_page, page_of
    from .report.results import Results

    check_page(out, force=force)
    page = page_of(Results.read(results), title=title or TITLE)
    with published_file(out) as file:
        file.write(page)
    print(f"{out}: {len(page.encode()) / 1e6:.1f} MB", file=sys.stderr)


@app.command(epilog="Example:  crossrt prepare minilm-l6 collection.tsv collection.store")
def prepare(
    bundle: Annotated[Path, typer.Argument(help="A bundle; every model with its tokenizer can use the store.")],
    passages: Annotated[Path, typer.Argument(help="`id <tab> passage` lines.")],
    store: Annotated[Path, typer.Argument(help="The store to make.")],
    force: Annotated[bool, typer.Option("--force", help="Replace an existing store, in one step.")] = False,
) -> None:
    """Tokenize a collection once, for `rerank --store`. An interrupted run goes on when it is started again."""
    from tokenizers import Tokenizer

    from .engine.bundle import Bundle
    from .engine.preparation import prepare

    opened = Bundle.open(bundle)
    made = prepare(
        passages,
        store,
        Tokenizer.from_file(str(opened.tokenizer_file)),
        tokenizer_sha256=opened.tokenizer_sha256,
        limit=opened.manifest.max_positions,
        force=force,
        progress=_for_a_person(),
    )
    print(f"{store}: {len(made):,} passages, {made.description.tokens:,} tokens, {_size(store)}", file=sys.stderr)


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
    from tokenizers import Tokenizer
    from tqdm import tqdm

    from .engine.bundle import Bundle
    from .engine.encoding import PairEncoder
    from .engine.session import choose_setup
    from .engine.tuner import ROUNDS, candidates, fastest, tune
    from .engine.tuning import Tuning
    from .engine.typical_pairs import typical_pairs

    opened = Bundle.open(bundle)
    setup = choose_setup(opened, precision=precision, device="cpu", threads=threads, tuned=False)
    texts = (
        _user_pairs(pairs, None, None, None, 100)
        if pairs is not None
        else typical_pairs(Tokenizer.from_file(str(opened.tokenizer_file)), 100)
    )
    encoder = PairEncoder.from_file(opened.tokenizer_file, max_length=opened.manifest.max_length)
    runs = len(candidates(opened, setup)) * (ROUNDS + 1)
    with tqdm(total=runs, desc="Measuring", unit="run", disable=not _for_a_person()) as bar:
        found = tune(opened, setup, [encoder.encode(texts)], progress=bar.update)
    best = fastest(found)
    lines = [f"{'backend':<12}streams  batch  pairs/s  ratio (lowest to highest)   mean |difference|"]
    for candidate in found:
        chosen = candidate.setup
        note = "" if candidate.same_scores else "  other scores: not taken"
        lines.append(
            f"{chosen.backend:<12}{chosen.streams:>7}{chosen.batch_size:>7}{candidate.pairs_per_second:>9,.0f}"
            f"  {candidate.ratio:>5.2f} ({candidate.lowest:.2f} to {candidate.highest:.2f})"
            f"{candidate.mean_abs_diff:>22.1e}{'  <- kept' if candidate is best else note}"
        )
    _say("\n".join(lines))
    kept = Tuning(backend=best.setup.backend, streams=best.setup.streams, batch_size=best.setup.batch_size).store(
        opened, setup.precision, setup.threads
    )
    print(f"kept in {kept}", file=sys.stderr)


@app.command(epilog="Example:  crossrt info minilm-l6 --verify")
def info(
    bundle: Annotated[Path, typer.Argument(help="The bundle.")],
    verify: Annotated[bool, typer.Option("--verify", help="Compare every file with its sha256.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest.")] = False,
    precision: Precision = None,
    backend: Backend = "auto",
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Say what a bundle holds, and what would run here and why."""
    from .engine.bundle import Bundle
    from .engine.session import choose_setup

    opened = Bundle.open(bundle, verify=verify)
    manifest = opened.manifest
    if as_json:
        _say(manifest.to_json())
        return
    source, shape = manifest.source, manifest.architecture
    revision = f" at {source['revision']}" if source.get("revision") else ""
    lines = [
        f"{source.get('id')}{revision}",
        f"  architecture  {shape.get('model_type')}, {shape.get('layers')} layers x {shape.get('hidden_size')}, "
        f"head {shape.get('head', 'as exported')}",
        f"  labels        {manifest.labels}, relevant {manifest.relevant_label}, activation {manifest.activation}",
        f"  max length    {manifest.max_length} tokens of {manifest.max_positions}",
    ]
    for name, model in manifest.models.items():
        checked = model.parity
        proof = (
            "parity not checked"
            if checked is None
            else f"parity {'passed' if checked['passed'] else 'FAILED'}, max |difference| {checked['max_abs_diff']:.1e}"
        )
        share = (model.numerics or {}).get("eight_bit_share")
        integer = "" if share is None else f", {share:.1%} of the multiply-adds in 8 bits"
        backends = "".join(
            f", {'passed' if passed else 'FAILED'} as {backend} computes it"
            for backend, passed in model.backends.items()
        )
        others = "".join(
            f"; {file} {where}"
            for file, where in (
                (model.native_file, "for own kernels"),
                (model.gpu_file, "on GPUs"),
                (model.fused_file, "by ONNX Runtime on GPUs"),
            )
            if file is not None
        )
        lines.append(f"  {name:<12}  {model.file}, {proof}{backends}{integer}{others}")
    lines += [f"  file          {file.name}, {file.size:,} bytes" for file in manifest.files]
    lines.append(f"  files         {'sizes and sha256 agree' if verify else 'sizes agree; --verify compares sha256'}")
    lines.append(
        f"  here          {choose_setup(opened, precision=precision, backend=backend, device=device, threads=threads)}"
    )
    _say("\n".join(lines))


def main() -> None:
    """Run the command line; exit 0 when done, 1 when something failed, 2 when the words were wrong."""
    debug = "--debug" in sys.argv[1:]
    with _errors_in_words(debug):
        app(prog_name="crossrt")


@contextmanager
def _errors_in_words(debug: bool) -> Iterator[None]:
    try:
        yield
    except ParityError as error:
        if debug:
            raise
        if error.report is not None:
            print(error.report, file=sys.stderr)
        print(f"crossrt: {error}", file=sys.stderr)
        sys.exit(1)
    except CrossrtError as error:
        if debug:
            raise
        print(f"crossrt: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, OptionError) else 1)
    except OSError as error:
        if debug:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"crossrt: {where}{error.strerror or error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("crossrt: interrupted", file=sys.stderr)
        sys.exit(130)


def _checkpoint_directory(
    source: str,
    revision: str | None,
    token: str | None,
    cache_folder: Path | None,
    local_files_only: bool,
    *,
    onnx: bool = False,
) -> tuple[Path, str | None]:
    from .engine.source import fetched_checkpoint

    path = Path(source).expanduser()
    if path.is_dir():
        return path, revision
    return fetched_checkpoint(
        source,
        revision=revision,
        token=token,
        cache_folder=cache_folder,
        local_files_only=local_files_only,
        onnx=onnx,
    )


def _need_export() -> None:
    from .engine.errors import BackendError
    from .engine.source import can_export

    if not can_export():
        raise BackendError('this needs PyTorch and transformers: pip install "crossrt[export]"')


def _need_report() -> None:
    from importlib.util import find_spec

    from .engine.errors import BackendError

    missing = [package for package in ("jinja2", "matplotlib", "pydantic") if find_spec(package) is None]
    if missing:
        raise BackendError(f'this needs {" and ".join(missing)}: pip install "crossrt[report]"')


def _building(
    workspace: int = 4096,
    optimization_level: int | None = None,
    timing_cache: Path | None = None,
    hardware_compatible: bool = False,
    version_compatible: bool = False,
    refittable: bool = False,
) -> Any:
    """How engines are built."""
    from .export.tensorrt import BuildOptions

    return BuildOptions(
        workspace=workspace << 20,
        optimization_level=optimization_level,
        timing_cache=timing_cache,
        hardware_compatible=hardware_compatible,
        version_compatible=version_compatible,
        refittable=refittable,
    )


def _with_engines(bundle: Any, precisions: Any, pairs: Any, options: Any, **others: Any) -> Any:
    from .engine.encoding import PairEncoder
    from .export.engines import add_engines

    encoder = PairEncoder.from_file(bundle.tokenizer_file, max_length=bundle.manifest.max_length)
    bundle, checks = add_engines(
        bundle,
        precisions,
        lengths=encoder.encode(pairs).lengths if pairs else None,
        options=options,
        progress=lambda text: print(f"crossrt: {text}", file=sys.stderr, flush=True),
        **others,
    )
    for check in checks:
        _say(str(check))
    return bundle


def _user_pairs(
    pairs: Path | None, queries: Path | None, passages: Path | None, run: Path | None, sample: int | None
) -> list[tuple[str, str]]:
    from .calibration.calibration_set import CalibrationSet

    trec = (queries, passages, run)
    if pairs is not None:
        if any(trec):
            raise OptionError("give --pairs, or --queries, --passages and --run, not both")
        return list(CalibrationSet.from_pairs_file(pairs, size=sample).pairs)
    if not any(trec):
        return []
    if queries is None or passages is None or run is None:
        raise OptionError("--queries, --passages and --run go together")
    return list(CalibrationSet.from_trec(queries, passages, run, size=sample).pairs)


def _judging(queries: Path | None, passages: Path | None, run: Path | None, qrels: Path | None) -> Any:
    """The run's lists, or None where they are too few or too short to judge a ranking by."""
    from .calibration.judging_set import JudgingSet

    if queries is None or passages is None or run is None:
        if qrels is not None:
            raise OptionError("--qrels goes with --queries, --passages and --run")
        return None
    try:
        return JudgingSet.from_trec(queries, passages, run, qrels=qrels)
    except DataFileError as error:
        print(f"warning: the ranking is not judged: {error}", file=sys.stderr)
        return None


def _compare(results: tuple[Path, Path], limit: float) -> None:
    from .speed.compare import compare
    from .speed.result import Speeds

    if not 0 <= limit < 100:
        raise OptionError(f"--limit {limit:g}: give a percentage from 0 to 100")
    before, after = (Speeds.read(path) for path in results)
    found = compare(before, after, limit=limit / 100)
    _say(str(found))
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


def _calibration(pairs: Path | None, trec: tuple[Path, Path, Path] | None) -> Any:
    from .calibration.calibration_set import CalibrationSet

    if pairs is not None and trec is not None:
        raise OptionError("give --calibrate PAIRS or --calibrate-run QUERIES PASSAGES RUN, not both")
    if trec is not None:
        return CalibrationSet.from_trec(*trec)
    return None if pairs is None else CalibrationSet.from_pairs_file(pairs)


def _passages(file: str) -> tuple[list[str], list[str]]:
    from .engine.trec import text_lines

    try:
        if file == "-":
            lines = [line for _, line in text_lines(sys.stdin.buffer, "standard input")]
        else:
            with Path(file).open("rb") as opened:
                lines = [line for _, line in text_lines(opened, file)]
    except OSError as error:
        raise DataFileError(f"{file} cannot be read ({error.strerror})") from error
    if not lines:
        raise DataFileError(f"{'standard input' if file == '-' else file} is empty; expected one passage a line")
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
    _say("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _say(text: str) -> None:
    # typer.echo hides a closed pipe, and typer itself ends on one without a word.
    try:
        print(text, flush=True)
    except BrokenPipeError as error:
        # Python flushes stdout once more at exit; it must find something it can write to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise CrossrtError("the reader of the output went away before its end") from error


def _size(directory: Path) -> str:
    size = sum(file.stat().st_size for file in directory.iterdir())
    return f"{size / 1e6:,.1f} MB"


def _for_a_person() -> bool:
    return sys.stderr.isatty()


if __name__ == "__main__":
    main()
