"""`crossrt export` makes a bundle from a checkpoint or from an existing ONNX file."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..calibration.recipe import METHODS, PARTS, Recipe
from ..engine.errors import OptionError
from ..engine.precision import Precision
from .shared.app import app
from .shared.arguments import check_standard_input, precisions_of, refuse
from .shared.engine_build import build_engines
from .shared.option_groups import with_option_groups
from .shared.options import EngineOptions, HubOptions, Pairs, RelevantLabel, Sample, TrecOptions, user_pairs
from .shared.output import for_a_person, models_of, say, size_of
from .shared.requirements import need_export

if TYPE_CHECKING:
    from ..calibration.calibration_set import CalibrationSet

EXPORTERS = ("auto", "crossrt", "optimum", "existing")

TrecFiles = tuple[Path, Path, Path]
"""Paths of queries, passages and run."""


@app.command(
    epilog="Examples:  crossrt export cross-encoder/ms-marco-MiniLM-L6-v2 minilm-l6  |  "
    "crossrt export ./my-finetuned out --pairs pairs.tsv"
)
@with_option_groups
def export(
    source: Annotated[str, typer.Argument(help="A checkpoint directory or a hub id.")],
    out: Annotated[Path, typer.Argument(help="The bundle to make.")],
    *,
    precision: Annotated[
        str,
        typer.Option(
            help="Precisions of the bundle: fp32, bf16, fp16, int8, separated by commas; fp32 is always included."
        ),
    ] = "fp32",
    calibrate: Annotated[
        Path | None,
        typer.Option(
            help="Real pairs, as `query <tab> passage` lines, that calibrate INT8 and FP16. Needed for good INT8."
        ),
    ] = None,
    calibrate_run: Annotated[
        TrecFiles | None, typer.Option(metavar="QUERIES PASSAGES RUN", help="The same as three TREC files.")
    ] = None,
    judge: Annotated[
        TrecFiles | None,
        typer.Option(
            metavar="QUERIES PASSAGES RUN",
            help="Lists of other queries as three TREC files; FP16 and INT8 must keep their order.",
        ),
    ] = None,
    judge_qrels: Annotated[
        Path | None, typer.Option(help="TREC qrels for --judge, which add nDCG@10 and RR@10.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="What INT8 quantizes: projections, full or ffn.")] = "projections",
    method: Annotated[
        str, typer.Option(help="How INT8 chooses activation ranges: token, minmax, percentile, entropy or mse.")
    ] = "token",
    smoothing: Annotated[
        float | None, typer.Option(help="SmoothQuant's alpha, 0 to 1; by default the method's own.")
    ] = None,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Keep FP16 and INT8 when they fail parity, marked as failed.")
    ] = False,
    exporter: Annotated[
        str, typer.Option(help="auto, crossrt, optimum, or existing: the ONNX file that the checkpoint already has.")
    ] = "auto",
    onnx_file: Annotated[
        str | None,
        typer.Option(help="ONNX file of the directory or repository to take, such as onnx/model_quantized.onnx."),
    ] = None,
    activation: Annotated[
        str | None, typer.Option(help="Activation in place of the checkpoint's: identity, sigmoid, softmax or tanh.")
    ] = None,
    relevant_label: RelevantLabel = None,
    tensorrt: Annotated[
        bool, typer.Option("--tensorrt", help="Build TensorRT engines too, for this machine's GPU.")
    ] = False,
    building: EngineOptions,
    pairs: Pairs = None,
    trec: TrecOptions,
    sample: Sample = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bundle, atomically.")] = False,
    hub: HubOptions,
    source_id: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Export a PyTorch cross-encoder to a bundle, and prove it against the PyTorch logits."""
    from ..engine.activation import named
    from ..engine.files.publish import check_target

    precisions = precisions_of(precision)
    activation = activation and named(activation)
    if exporter not in EXPORTERS:
        raise OptionError(f"unknown exporter {exporter!r}; one of {', '.join(EXPORTERS)}")
    check_target(out, force=force)
    options = building.build_options()
    if not tensorrt and building != EngineOptions():
        raise OptionError("options of building engines (--workspace to --unfused-attention) go with --tensorrt")
    if tensorrt:
        _need_tensorrt(precisions)
    if onnx_file is not None:
        if exporter not in ("auto", "existing"):
            raise OptionError(f"--onnx-file takes an ONNX file as it is: leave out --exporter {exporter}")
        exporter = "existing"
    calibrating = {"calibrate": calibrate, "calibrate_run": calibrate_run}
    quantizing = {"recipe": recipe != PARTS[0], "method": method != METHODS[0], "smoothing": smoothing}
    judged = {"judge": judge, "judge_qrels": judge_qrels, "keep_going": keep_going}
    chosen = Recipe(parts=recipe, method=method, smoothing=smoothing)
    if exporter != "existing":
        if judge_qrels is not None and judge is None:
            raise OptionError("--judge-qrels goes with --judge QUERIES PASSAGES RUN")
        if not tensorrt:
            _refuse_without_precision(precisions, calibrating, judged)
        if Precision.INT8 not in precisions:
            refuse("int8 is quantized, and --precision does not name it", **quantizing)
        check_standard_input(pairs=pairs, **asdict(trec), **calibrating, judge=judge, judge_qrels=judge_qrels)
    if source_id is None:
        directory, revision = hub.checkpoint(source, onnx=exporter == "existing", onnx_file=onnx_file)
    else:  # `bundle_from_source` has fetched it
        directory, revision = Path(source), hub.revision
    common: dict[str, Any] = {
        "source_id": source_id or (source if revision is not None else directory.resolve().name),
        "revision": revision,
        "activation": activation,
        "relevant_label": relevant_label,
        "force": force,
    }
    if exporter == "auto":
        exporter = _exporter_of(directory)
    if exporter == "existing":
        refuse(
            "an ONNX file that is there already is taken as it is, and not compared with PyTorch; `crossrt engines` builds "
            "engines of its bundle",
            **calibrating,
            **quantizing,
            **judged,
            **asdict(trec),
            pairs=pairs,
            sample=sample,
            tensorrt=tensorrt,
        )
        if precisions != [Precision.FP32]:
            raise OptionError(
                f"--precision {precision}: an ONNX file that is there already is taken as it is, in the precision it has; "
                "--onnx-file chooses another"
            )
        _take_existing(source, directory, out, onnx_file=onnx_file, **common)
        return
    need_export()
    from ..calibration.judging_set import JudgingSet

    checked = user_pairs(pairs, trec.files(pairs=pairs), sample)
    calibration = _calibration(calibrate, calibrate_run)
    judging = None if judge is None else JudgingSet.from_trec(*judge, qrels=judge_qrels)
    if calibration is None and {Precision.FP16, Precision.INT8} & set(precisions):
        print(
            "warning: what FP16 and INT8 can hold is decided on the built-in pairs alone; give real ones of your own "
            "kind, at least 40 queries with several passages each, with --calibrate",
            file=sys.stderr,
        )
    from ..export.checkpoint.checkpoint import Checkpoint  # imports torch, which takes seconds
    from ..export.export import export_bundle

    bundle, reports = export_bundle(
        Checkpoint.read(directory, activation=activation, hub=hub.for_base),
        out,
        exporter=exporter,
        precisions=precisions,
        pairs=checked,
        calibration=calibration,
        judging=judging,
        recipe=chosen,
        keep_going=keep_going,
        progress=for_a_person(),
        **common,
    )
    for report in reports:
        say(str(report))
    if tensorrt:
        lengths_of = calibration.pairs if calibration else checked
        bundle = build_engines(bundle, precisions, pairs=lengths_of, options=options, judging=judging)
    say("\n".join([f"{bundle.path}: {size_of(bundle.path)}", *models_of(bundle.manifest)]))


def _refuse_without_precision(
    precisions: Sequence[Precision], calibrating: dict[str, Any], judged: dict[str, Any]
) -> None:
    """Raise OptionError for options of calibration and judging that apply to none of the precisions."""
    if not {Precision.FP16, Precision.INT8} & set(precisions):
        refuse("fp16 and int8 are calibrated, and --precision names neither", **calibrating)
    if precisions == [Precision.FP32]:
        refuse("fp32 is not judged by how it ranks, and it has to pass; name others with --precision", **judged)


def _need_tensorrt(precisions: Sequence[Precision]) -> None:
    """Raise what `add_engines` would raise where engines cannot be built. Called before the export, which takes longer."""
    need_export()
    from ..export.tensorrt.engines import check_precisions, here

    check_precisions(precisions)
    here()


def _has_weights(directory: Path) -> bool:
    """Tell whether a directory holds PyTorch weights, of a whole model or of an adapter."""
    from ..engine.bundle.resolve import ADAPTER_WEIGHTS
    from ..export.checkpoint.weights import WEIGHTS

    return any((directory / name).is_file() for name in (*WEIGHTS, *ADAPTER_WEIGHTS))


def _exporter_of(directory: Path) -> str:
    """Return `existing` if there is an ONNX file but no PyTorch, or no weights, to export another. Otherwise `crossrt`."""
    from ..engine.bundle.resolve import can_export
    from ..export.existing.existing import existing_onnx

    exports = _has_weights(directory) and can_export()
    return "existing" if existing_onnx(directory) and not exports else "crossrt"


def _take_existing(source: str, directory: Path, out: Path, *, source_id: str, **options: Any) -> None:
    """Make a bundle from an ONNX file as it is, and print how its parity can be checked."""
    from ..export.existing.existing import bundle_from_onnx

    bundle = bundle_from_onnx(directory, out, source_id=source_id, **options)
    for warning in bundle.manifest.source["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    [held] = bundle.manifest.models
    file = bundle.manifest.source["onnx_file"]
    say(f"{out}: {size_of(bundle.path)}, {held}, from {file} of {source_id}; its parity was not checked.")
    words = "" if held == "fp32" else f" --precision {held}" + (" --pairs PAIRS.tsv" if held == "int8" else "")
    given = shlex.quote(str(out))
    if _has_weights(directory):
        say(f"Check it where PyTorch is installed: crossrt parity {given} --against {shlex.quote(source)}{words}")
    else:
        say(
            f"{source} holds no PyTorch weights to compare it with. If you have the checkpoint elsewhere: "
            f"crossrt parity {given} --against CHECKPOINT{words}"
        )


def _calibration(pairs: Path | None, trec: TrecFiles | None) -> "CalibrationSet | None":
    from ..calibration.calibration_set import CalibrationSet

    if pairs is not None and trec is not None:
        raise OptionError("give --calibrate PAIRS or --calibrate-run QUERIES PASSAGES RUN, not both")
    if trec is not None:
        return CalibrationSet.from_trec(*trec)
    return None if pairs is None else CalibrationSet.from_pairs_file(pairs)
