"""`crossrt export`, `engines` and `parity`: bundles are made and checked."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..engine.errors import DataFileError, OptionError
from ..engine.precision import Precision as Precisions
from .app import app, for_a_person, models_of, say, say_json, size_of
from .options import (
    Backend,
    CacheFolder,
    Device,
    HardwareCompatible,
    LocalFilesOnly,
    MaxLength,
    OptimizationLevel,
    PairsFile,
    PassagesFile,
    QueriesFile,
    Refittable,
    RelevantLabel,
    Revision,
    RunFile,
    Sample,
    Threads,
    TimingCache,
    Token,
    TrustEngines,
    UnfusedAttention,
    VersionCompatible,
    Workspace,
)


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
    onnx_file: Annotated[
        str | None,
        typer.Option(help="Take this ONNX file of the directory or repository, as onnx/model_quantized.onnx."),
    ] = None,
    activation: Annotated[
        str | None, typer.Option(help="Use this one, not the checkpoint's: identity, sigmoid, softmax or tanh.")
    ] = None,
    relevant_label: RelevantLabel = None,
    tensorrt: Annotated[
        bool, typer.Option("--tensorrt", help="Build TensorRT engines too, for the GPU that is here.")
    ] = False,
    workspace: Workspace = 4096,
    optimization_level: OptimizationLevel = None,
    timing_cache: TimingCache = None,
    hardware_compatible: HardwareCompatible = False,
    version_compatible: VersionCompatible = False,
    refittable: Refittable = False,
    unfused_attention: UnfusedAttention = False,
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
    from ..engine.activation import named
    from ..engine.bundle.resolve import can_export
    from ..engine.files.publish import check_target
    from ..export.existing.existing import bundle_from_onnx, existing_onnx

    precisions = _precisions(precision)
    activation = activation and named(activation)
    if exporter not in ("auto", "crossrt", "optimum", "existing"):
        raise OptionError(f"unknown exporter {exporter!r}; one of auto, crossrt, optimum, existing")
    check_target(out, force=force)
    options = _building(
        workspace,
        optimization_level,
        timing_cache,
        hardware_compatible,
        version_compatible,
        refittable,
        unfused_attention,
    )
    if not tensorrt and options != _building():
        raise OptionError("options of building engines (--workspace to --unfused-attention) go with --tensorrt")
    if tensorrt:
        _need_export()
        from ..export.tensorrt.engines import here

        here()  # what is missing is better known before the export than after
    if onnx_file is not None:
        if exporter not in ("auto", "existing"):
            raise OptionError(f"--onnx-file takes an ONNX file as it is: leave out --exporter {exporter}")
        exporter = "existing"
    directory, revision = _checkpoint_directory(
        source, revision, token, cache_folder, local_files_only, onnx=exporter == "existing", onnx_file=onnx_file
    )
    has_weights = any((directory / name).is_file() for name in ("model.safetensors", "pytorch_model.bin"))
    if exporter == "auto":
        exporter = "existing" if existing_onnx(directory) and not (has_weights and can_export()) else "crossrt"
    source_id = source_id or (str(source) if not Path(source).is_dir() else directory.resolve().name)
    if exporter == "existing":
        if precisions != [Precisions.FP32]:
            raise OptionError(
                f"--precision {precision}: an ONNX file that is there already is taken as it is, in the precision it has; "
                "--onnx-file chooses another"
            )
        bundle = bundle_from_onnx(
            directory,
            out,
            onnx_file=onnx_file,
            source_id=source_id,
            revision=revision,
            activation=activation,
            relevant_label=relevant_label,
            force=force,
        )
        for warning in bundle.manifest.source["warnings"]:
            print(f"warning: {warning}", file=sys.stderr)
        [held] = bundle.manifest.models
        file = bundle.manifest.source["onnx_file"]
        say(f"{out}: {size_of(bundle.path)}, {held}, from {file} of {source_id}; its parity was not checked.")
        options = "" if held == "fp32" else f" --precision {held}" + (" --pairs PAIRS.tsv" if held == "int8" else "")
        if has_weights:
            say(f"Check it where PyTorch is installed: crossrt parity {out} --against {source}{options}")
        else:
            say(
                f"{source} holds no PyTorch weights to compare it with. If you have the checkpoint elsewhere: "
                f"crossrt parity {out} --against CHECKPOINT{options}"
            )
        return
    _need_export()
    from ..calibration.judging_set import JudgingSet
    from ..calibration.recipe import Recipe
    from ..export.checkpoint.checkpoint import Checkpoint
    from ..export.export import export_bundle

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
    bundle, reports = export_bundle(
        checkpoint,
        out,
        source_id=source_id,
        revision=revision,
        activation=activation,
        relevant_label=relevant_label,
        exporter=exporter,
        precisions=precisions,
        pairs=user_pairs,
        calibration=calibration,
        judging=judging,
        recipe=chosen,
        keep_going=keep_going,
        force=force,
        progress=for_a_person(),
    )
    for report in reports:
        say(str(report))
    if tensorrt:
        lengths_of = calibration.pairs if calibration else user_pairs
        bundle = _with_engines(bundle, precisions, lengths_of, options, judging=judging)
    say("\n".join([f"{bundle.path}: {size_of(bundle.path)}", *models_of(bundle.manifest)]))


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
    trust_engines: TrustEngines = False,
    workspace: Workspace = 4096,
    optimization_level: OptimizationLevel = None,
    timing_cache: TimingCache = None,
    hardware_compatible: HardwareCompatible = False,
    version_compatible: VersionCompatible = False,
    refittable: Refittable = False,
    unfused_attention: UnfusedAttention = False,
) -> None:
    """Build TensorRT engines of a bundle for the GPU that is here, check them on it, and put them into the bundle."""
    from ..engine.bundle.bundle import Bundle
    from ..engine.runtime.select_gpu import ordinals_of
    from ..export.tensorrt.engines import here

    options = _building(
        workspace,
        optimization_level,
        timing_cache,
        hardware_compatible,
        version_compatible,
        refittable,
        unfused_attention,
    )
    if refit_from is not None and (cache or pairs or max_length or tokens or options != _building()):
        raise OptionError(
            "--refit-from takes an engine as it was built: leave out the options of building, and --cache"
        )
    if trust_engines and refit_from is None:
        raise OptionError("--trust-engines goes with --refit-from: engines that are built here need no trust")
    [ordinal] = ordinals_of(device)
    precisions = _precisions(precision)
    here(ordinal)
    made = _with_engines(
        Bundle.open(bundle),
        precisions,
        _user_pairs(pairs, None, None, None, None),
        options,
        device=ordinal,
        max_length=max_length,
        cache=cache,
        refit_from=None if refit_from is None else Bundle.open(refit_from),
        trust_engines=trust_engines,
        **({} if tokens is None else {"tokens": tokens}),
    )
    if not cache:
        print(f"{made.path}: its engines are taken with --trust-engines, or trust_engines=True", file=sys.stderr)


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
    precision: Annotated[str | None, typer.Option(help="Precisions to check, as fp32,int8; fp32 unless given.")] = None,
    backend: Backend = "auto",
    device: Device = None,
    threads: Threads = None,
    max_length: MaxLength = None,
    trust_engines: TrustEngines = False,
    revision: Revision = None,
    token: Token = None,
    cache_folder: CacheFolder = None,
    local_files_only: LocalFilesOnly = False,
) -> None:
    """Compare a bundle's scores with its checkpoint in PyTorch; exit 1 when they differ.

    A run with at least 20 queries of 50 candidates is judged as a ranking too. INT8 is judged by nothing else: it takes such a
    run, or --pairs with at least 40 queries, of which lists are made as at export.
    """
    _need_export()
    user_pairs = _user_pairs(pairs, queries, passages, run, sample)
    directory, _ = _checkpoint_directory(against, revision, token, cache_folder, local_files_only)
    from ..calibration.judging_set import JudgingSet
    from ..engine.bundle.bundle import Bundle
    from ..engine.cross_encoder import CrossEncoder
    from ..export.checkpoint.checkpoint import Checkpoint
    from ..export.parity.pairs import builtin_pairs
    from ..export.parity.parity import judge_of
    from ..export.parity.parity import parity as compare

    Bundle.open(bundle)  # a checkpoint would be exported
    judging = _judging(queries, passages, run, qrels)
    wanted = _precisions(precision or "fp32")
    if judging is None and Precisions.INT8 in wanted:
        if pairs is None:
            raise OptionError(
                "int8 is judged by how it ranks: give --queries, --passages and --run with at least 20 queries of 50 "
                "candidates, or --pairs with at least 40 queries"
            )
        judging = JudgingSet.pooled(user_pairs, source=pairs.name)
    judge = None
    reports = []
    for each in wanted:
        with CrossEncoder(
            bundle,
            precision=each,
            backend=backend,
            device=device,
            threads=threads,
            max_length=max_length,
            trust_engines=trust_engines,
            allow_failed=True,  # a precision that failed may be checked again
        ) as model:
            made = model.bundle.manifest.source
            checkpoint = Checkpoint.read(directory, activation=made.get("chosen_activation"))
            checkpoint = checkpoint.with_relevant_label(made.get("chosen_relevant_label"))
            progress = for_a_person()
            if judging is not None and judge is None:
                judge = judge_of(checkpoint, judging, max_length=model.max_length, progress=progress)
            checked = [*builtin_pairs(model.max_length), *user_pairs]
            reports.append(compare(model, checkpoint, checked, judge=judge, progress=progress))
            others = [name for name in model.bundle.manifest.models if Precisions(name) not in wanted]
            if not as_json:
                say(str(reports[-1]))
    if as_json:
        found = [json.loads(report.to_json()) for report in reports]
        say_json(found[0] if len(found) == 1 else found)
    elif others:
        say(f"not checked: {', '.join(others)} (--precision {','.join([*(each.value for each in wanted), *others])})")
    if not all(reports):
        raise typer.Exit(1)


def _checkpoint_directory(
    source: str,
    revision: str | None,
    token: str | None,
    cache_folder: Path | None,
    local_files_only: bool,
    *,
    onnx: bool = False,
    onnx_file: str | None = None,
) -> tuple[Path, str | None]:
    from ..engine.bundle.resolve import fetched_checkpoint

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
        onnx_file=onnx_file,
    )


def _need_export() -> None:
    from ..engine.bundle.resolve import can_export
    from ..engine.errors import BackendError

    if not can_export():
        raise BackendError('this needs PyTorch and transformers: pip install "crossrt[export]"')


def _precisions(names: str) -> list[Precisions]:
    known = [precision.value for precision in Precisions]
    given = [name.strip().lower() for name in names.split(",")]
    if unknown := [name for name in given if name not in known]:
        raise OptionError(f"unknown precision {unknown[0]!r}; one of {', '.join(known)}, or several with commas")
    return [Precisions(name) for name in dict.fromkeys(given)]


def _building(
    workspace: int = 4096,
    optimization_level: int | None = None,
    timing_cache: Path | None = None,
    hardware_compatible: bool = False,
    version_compatible: bool = False,
    refittable: bool = False,
    unfused_attention: bool = False,
) -> Any:
    """How engines are built."""
    from ..export.tensorrt.build import BuildOptions

    return BuildOptions(
        workspace=workspace << 20,
        optimization_level=optimization_level,
        timing_cache=timing_cache,
        hardware_compatible=hardware_compatible,
        version_compatible=version_compatible,
        refittable=refittable,
        unfused_attention=unfused_attention,
    )


def _with_engines(bundle: Any, precisions: Any, pairs: Any, options: Any, **others: Any) -> Any:
    from ..export.tensorrt.engines import add_engines

    encoder = bundle.pair_tokenizer()
    bundle, checks = add_engines(
        bundle,
        precisions,
        lengths=encoder.encode(pairs).lengths if pairs else None,
        options=options,
        progress=lambda text: print(f"crossrt: {text}", file=sys.stderr, flush=True),
        **others,
    )
    for check in checks:
        say(str(check))
    return bundle


def _user_pairs(
    pairs: Path | None, queries: Path | None, passages: Path | None, run: Path | None, sample: int | None
) -> list[tuple[str, str]]:
    from ..calibration.calibration_set import CalibrationSet

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
    from ..calibration.judging_set import JudgingSet

    if queries is None or passages is None or run is None:
        if qrels is not None:
            raise OptionError("--qrels goes with --queries, --passages and --run")
        return None
    try:
        return JudgingSet.from_trec(queries, passages, run, qrels=qrels)
    except DataFileError as error:
        print(f"warning: the ranking is not judged: {error}", file=sys.stderr)
        return None


def _calibration(pairs: Path | None, trec: tuple[Path, Path, Path] | None) -> Any:
    from ..calibration.calibration_set import CalibrationSet

    if pairs is not None and trec is not None:
        raise OptionError("give --calibrate PAIRS or --calibrate-run QUERIES PASSAGES RUN, not both")
    if trec is not None:
        return CalibrationSet.from_trec(*trec)
    return None if pairs is None else CalibrationSet.from_pairs_file(pairs)
