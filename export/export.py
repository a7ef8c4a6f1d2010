"""`export_bundle`: exports a checkpoint as a bundle, and checks every model in it against PyTorch."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..calibration.calibration_set import CalibrationSet
from ..calibration.judging_set import JudgingSet
from ..calibration.recipe import Recipe
from ..engine.bundle.bundle import Bundle
from ..engine.bundle.manifest import TOKENIZER
from ..engine.errors import OptionError, ParityError
from ..engine.files.publish import check_target, published_directory
from ..engine.kernels.support import why_not_native
from ..engine.labels import need_label
from ..engine.precision import Precision
from ..engine.text.pair_tokenizer import without_truncation_and_padding
from .bundle.builder import BundleBuilder
from .bundle.hub_files import write_hub_files
from .bundle.manifest import manifest_of
from .checkpoint.checkpoint import Checkpoint
from .checkpoint.files import check_name
from .checkpoint.pretrained import completed_config, special_tokens_of, tokenizer_of
from .graph.writer import OPSET
from .parity.judge import ParityJudge
from .parity.pairs import builtin_pairs, overlong_pairs
from .parity.report import ParityReport
from .steps import bf16, fp16, fp32, int8
from .steps.context import ExportContext
from .steps.native import runs_natively
from .steps.step import FailureStops, Step

logger = logging.getLogger("crossrt")

EXPORTERS = ("crossrt", "optimum")
CALIBRATION_PAIRS = 2000
"""Maximum number of pairs on which INT8's ranges are chosen. More pairs change little and take longer."""

FP32, BF16, FP16, INT8 = Precision.FP32, Precision.BF16, Precision.FP16, Precision.INT8
PRECISIONS = (FP32, BF16, FP16, INT8)
ALWAYS, UNLESS_KEEP_GOING, NEVER = FailureStops.ALWAYS, FailureStops.UNLESS_KEEP_GOING, FailureStops.NEVER

STEPS: tuple[Step, ...] = (
    Step(name="fp32", precision=FP32, run=fp32.fp32, failure_stops=ALWAYS),
    Step(
        name="fp32.native",
        precision=FP32,
        run=fp32.fp32_native,
        failure_stops=NEVER,
        extra_file=fp32.NATIVE_FILE,
    ),
    Step(name="bf16", precision=BF16, run=bf16.bf16, failure_stops=UNLESS_KEEP_GOING),
    Step(name="bf16.openvino", precision=BF16, run=bf16.bf16_openvino, failure_stops=NEVER, after="bf16"),
    Step(name="fp16", precision=FP16, run=fp16.fp16, failure_stops=UNLESS_KEEP_GOING),
    Step(
        name="fp16.fused",
        precision=FP16,
        run=fp16.fp16_fused,
        failure_stops=NEVER,
        extra_file=fp16.FUSED_FILE,
        after="fp16",
    ),
    Step(
        name="fp16.native",
        precision=FP16,
        run=fp16.fp16_native,
        failure_stops=NEVER,
        extra_file=fp16.NATIVE_FILE,
        after="fp16",
    ),
    Step(name="int8", precision=INT8, run=int8.int8, failure_stops=UNLESS_KEEP_GOING),
    *(
        Step(
            name=f"int8.{backend}",
            precision=INT8,
            run=partial(int8.int8_on_backend, backend),
            failure_stops=UNLESS_KEEP_GOING,
            after="int8",
        )
        for backend in int8.OTHER_BACKENDS
    ),
    Step(
        name="int8.native",
        precision=INT8,
        run=int8.int8_native,
        failure_stops=NEVER,
        extra_file=int8.NATIVE_FILE,
        after="int8",
    ),
    Step(
        name="int8.native.narrow",
        precision=INT8,
        run=int8.int8_narrow,
        failure_stops=NEVER,
        after="int8.native",
    ),
    Step(
        name="int8.gpu",
        precision=INT8,
        run=int8.int8_gpu,
        failure_stops=UNLESS_KEEP_GOING,
        extra_file=int8.GPU_FILE,
        after="int8",
        also=FP16,
    ),
)
"""All steps, in the order in which they run."""


def export_bundle(
    checkpoint: Checkpoint,
    out: Path,
    *,
    source_id: str | None = None,
    revision: str | None = None,
    activation: str | None = None,
    relevant_label: int | str | None = None,
    exporter: str = "crossrt",
    precisions: Sequence[Precision] = (Precision.FP32,),
    pairs: Sequence[tuple[str, str]] | None = None,
    calibration: CalibrationSet | None = None,
    judging: JudgingSet | None = None,
    recipe: Recipe | None = None,
    keep_going: bool = False,
    force: bool = False,
    progress: bool = False,
) -> tuple[Bundle, tuple[ParityReport, ...]]:
    """Export a checkpoint, check each precision against PyTorch, and publish them as a bundle at `out`.

    FP32 is always exported. BF16 shares its ONNX file, and INT8 engines of TensorRT are compared with it.

    `activation` is recorded as the caller's choice; pass the one with which the checkpoint was read. `relevant_label`, an index
    or a name, is the label to rank by, in place of the checkpoint's own choice. A model with more than two labels has no label to
    rank by unless this is given.

    `pairs` are checked in addition to the built-in pairs. INT8 chooses its ranges on the `calibration` pairs, by default the
    built-in ones; FP16 uses them, if given, to choose which tensors stay in FP32. Every precision except FP32 is also judged by
    how it ranks the lists of `judging`. Without `judging`, INT8 is judged on lists that are pooled from the calibration pairs.
    Pairs of judged queries are removed from the calibration pairs. INT8 follows `recipe`.

    Some precisions get further files, each with a report of its own: weights for the native kernels in FP32, INT8 and FP16 (the
    first two only if the kernels run here), FP16 with ONNX Runtime's fused operators, and, if both INT8 and FP16 are wanted, a
    second INT8 file for GPUs whose other tensors are FP16. A further file that fails is left out.

    An existing bundle at `out` is replaced only with `force`, and then atomically. Settings in the checkpoint's files that
    crossrt does not know are logged as warnings and kept in the manifest's `source`.

    Raises ParityError, with the report, when a precision differs by more than its tolerance; `out` then stays as it was. INT8
    must also pass in OpenVINO, if that is installed, and in its second file. With `keep_going` the bundle is published
    nevertheless: the manifest marks the precision as failed, and a second INT8 file that failed is left out. A failure of FP32
    always raises.

    Raises OptionError for options that do not go together, and when rankings are to be judged but it is unknown which label means
    relevant.
    """
    wanted = tuple(precision for precision in PRECISIONS if precision in (FP32, *precisions))
    _check_options(checkpoint, exporter, wanted)
    check_name(out.resolve())
    check_target(out, force=force)
    checkpoint = checkpoint.with_relevant_label(relevant_label)
    if judging is not None or INT8 in wanted:
        need_label(checkpoint.relevant_label, checkpoint.label_names, checkpoint.labels)
    tokenizer = tokenizer_of(checkpoint)
    # If the tokenizer returns no token types, transformers gives every token type 0.
    returns_types = "token_type_ids" in tokenizer("a", "b")
    checkpoint = replace(checkpoint, token_types=checkpoint.token_types and returns_types)
    for warning in checkpoint.warnings:
        logger.warning("%s", warning)
    source = {
        "id": source_id or checkpoint.path.name,
        "revision": revision,
        "exporter": exporter,
        "opset": OPSET,
        "chosen_activation": activation or checkpoint.chosen_activation,
        "chosen_relevant_label": None if relevant_label is None else checkpoint.relevant_label,
        "unused_tensors": list(checkpoint.unused_tensors),
        "warnings": list(checkpoint.warnings),
    }
    with published_directory(out, force=force) as directory:
        builder = BundleBuilder(directory, manifest_of(checkpoint, source))
        builder.write_text(TOKENIZER, without_truncation_and_padding(tokenizer.backend_tokenizer.to_str()))
        if INT8 in wanted:  # first, because this raises for too few pairs and other steps may take hours
            calibration, judging = _split_queries(calibration, judging)
        judged = [*builtin_pairs(checkpoint.max_length), *(pairs or ())]
        context = ExportContext(
            checkpoint=checkpoint,
            exporter=exporter,
            precisions=wanted,
            tokenizer=Bundle(directory, builder.manifest).pair_tokenizer(),
            builder=builder,
            judge=ParityJudge(checkpoint, judged, judging, progress=progress),
            calibration=calibration,
            recipe=recipe or Recipe(),
            progress=progress,
        )
        _check_truncation(context, tokenizer, out)
        reports = _run(STEPS, context, out, keep_going=keep_going)
        _write_hub_files(builder, checkpoint, tokenizer)
        builder.finish()
        Bundle.open(directory)  # nothing is published that cannot be opened
    return Bundle.open(out), reports


def _check_truncation(context: ExportContext, tokenizer: Any, out: Path) -> None:
    """Raise ParityError unless pairs with too many tokens are truncated as in transformers.

    Only token ids are compared. If a model has many positions, scoring its longest pairs needs too much memory (see `MAX_WORDS`).
    """
    length = context.checkpoint.max_length
    pairs = overlong_pairs(length)
    ours = context.tokenizer.encode(pairs, prompt="")
    theirs = tokenizer(*map(list, zip(*pairs, strict=True)), truncation="longest_first", max_length=length)["input_ids"]
    for number, ids in enumerate(theirs):
        if list(ours.ids[ours.offsets[number] : ours.offsets[number + 1]]) != list(ids):
            raise ParityError(
                f"{out} was not published: pairs of more than {length} tokens are not cut as transformers cuts them"
            )


def _run(steps: Sequence[Step], context: ExportContext, out: Path, *, keep_going: bool) -> tuple[ParityReport, ...]:
    """Run the steps that are due and return their reports. Raises ParityError for a failure that stops the export."""
    reports = []
    for step in steps:
        result = step.run(context) if step.is_due(context) else None
        if result is None:
            continue
        report = result.report
        if not report and step.stops(keep_going=keep_going):
            raise ParityError(f"{out} was not published: {'; '.join(report.failures)}", report)
        step.record(result, context)
        reports.append(report)
    return tuple(reports)


def _check_options(checkpoint: Checkpoint, exporter: str, wanted: Sequence[Precision]) -> None:
    """Raise OptionError for options that do not go together or are not available here."""
    if exporter not in EXPORTERS:
        raise OptionError(f"unknown exporter {exporter!r}; one of {', '.join(EXPORTERS)}")
    if len(wanted) > 1 and exporter == "optimum":
        raise OptionError("Optimum's graph is exported in fp32 alone; leave out --exporter for other precisions")
    if BF16 in wanted and not runs_natively(checkpoint, BF16):
        why = why_not_native(BF16) or "they do not know such a model"
        raise OptionError(
            f"bf16 is exported for the native kernels, and cannot be checked here: {why}. Leave it out: where a processor "
            "computes in BF16, OpenVINO does so with the FP32 file"
        )


def _split_queries(calibration: CalibrationSet | None, judging: JudgingSet | None) -> tuple[CalibrationSet, JudgingSet]:
    """Split the pairs into those that calibrate INT8 and the lists that judge it. The two share no query."""
    calibration = calibration or CalibrationSet.builtin()
    if judging is None:
        judging = JudgingSet.pooled(calibration.pairs, source=calibration.source, seed=calibration.seed)
    return calibration.without_queries(judging.texts_of_queries, size=CALIBRATION_PAIRS), judging


def _write_hub_files(builder: BundleBuilder, checkpoint: Checkpoint, tokenizer: Any) -> None:
    write_hub_files(
        builder.directory,
        builder.manifest,
        source=checkpoint.path,
        config=completed_config(checkpoint),
        tokenizer_class=type(tokenizer).__name__,
        special_tokens=special_tokens_of(tokenizer),
        token_types="token_type_ids" in tokenizer.model_input_names,
    )
