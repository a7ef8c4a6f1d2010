"""`export_bundle`: a checkpoint becomes a bundle, and nothing that fails parity is published."""

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
"""The most pairs that INT8's ranges are chosen on; more change little and take longer."""

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
            run=partial(int8.int8_by, backend),
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

    FP32 is always exported, since the other precisions are judged beside it. `activation` names the one that the caller chose
    over the checkpoint's own. `relevant_label`, an index or a name, is the label to rank by instead of the checkpoint's own
    choice; a model with more than two has none unless it is given.

    `pairs` are checked besides the built-in ones. `calibration` are the pairs on which the other precisions decide which
    tensors they can hold; without them INT8 takes the built-in ones. Every precision is judged on `judging`, or else, for
    INT8, on lists pooled from the calibration pairs; pairs of judged queries are left out of calibration. INT8 follows
    `recipe`; where FP16 is wanted too, a second INT8 file for GPUs has its rest in FP16. Such further files have reports of
    their own: FP32 and INT8 for the native kernels, where they run here, and FP16 in ONNX Runtime's fused operators. These
    are left out where they fail.

    An existing bundle is kept unless `force`, and then replaced in one step. Raises ParityError, with the report, when
    a precision differs beyond its tolerance; `out` is then as it was. With `keep_going` the bundle is published with
    that precision marked as failed, unless it is FP32, and without a second INT8 file that failed. Settings in the checkpoint's
    files that crossrt does not know are logged as warnings and kept in the manifest's `source`. Raises OptionError for options
    that do not go together, and where rankings are to be judged and no label is known to be the relevant one.
    """
    wanted = tuple(precision for precision in PRECISIONS if precision in (FP32, *precisions))
    _check_options(checkpoint, exporter, wanted)
    check_name(out.resolve())
    check_target(out, force=force)
    checkpoint = checkpoint.with_relevant_label(relevant_label)
    if judging is not None or INT8 in wanted:
        need_label(checkpoint.relevant_label, checkpoint.label_names, checkpoint.labels)
    tokenizer = tokenizer_of(checkpoint)
    # transformers gives every token type 0 where the tokenizer returns no types.
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
        "unused_tensors": list(checkpoint.leftover),
        "warnings": list(checkpoint.warnings),
    }
    with published_directory(out, force=force) as directory:
        builder = BundleBuilder(directory, manifest_of(checkpoint, source))
        builder.write_text(TOKENIZER, without_truncation_and_padding(tokenizer.backend_tokenizer.to_str()))
        if INT8 in wanted:  # before hours are spent on anything else
            calibration, judging = _calibrating_and_judging(calibration, judging)
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
    """Raise ParityError unless pairs of too many tokens are cut as transformers cuts them.

    Token ids suffice: the longest pairs of a model with many positions need too much memory to be scored (`LONGEST`).
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
    """Run the steps that are due; return their reports. Raises ParityError for a failure that stops the export."""
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
    """Raise OptionError for options that do not go together or cannot be had here."""
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


def _calibrating_and_judging(
    calibration: CalibrationSet | None, judging: JudgingSet | None
) -> tuple[CalibrationSet, JudgingSet]:
    """Part the pairs into those that calibrate INT8 and the lists that judge it, which share no query."""
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
