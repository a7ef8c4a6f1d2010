"""INT8: the ONNX file for CPUs (judged in every backend), weights for the native kernels, and the ONNX file for GPUs."""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import onnx

from ...calibration.ranking_report import RankingReport
from ...engine.backends.registry import ONNX_BACKENDS, installed_backends
from ...engine.bundle.bundle import Bundle
from ...engine.bundle.manifest import ONNX_FILES, BundleModel
from ...engine.bundle.native_weights import NativeModel
from ...engine.cross_encoder import CrossEncoder
from ...engine.kernels.instruction_sets import PROCESSOR_KINDS
from ...engine.kernels.support import NARROW, only_kinds, parity_key, why_not_native
from ...engine.precision import Precision
from ..graph.writer import graph_of, onnx_from_checkpoint, save_checked
from ..parity.judge import DEFAULT_BACKEND
from ..precision.calibration_chart import can_draw, draw
from ..precision.fp16_emulation import rounded_after_operators
from ..precision.int8 import quantize_int8
from ..precision.int8_result import Int8Result
from ..precision.native_weights import gradient_sites, native_from_checkpoint, with_shifted_logits
from ..precision.score_gradients import ScoreGradients, score_gradients
from ..precision.tolerance import TOLERANCE
from .context import ExportContext
from .native import runs_natively
from .step import StepResult, with_score_error

GPU_FILE = "model.int8.gpu.onnx"
NATIVE_FILE = "model.int8.native"
CALIBRATION_FILE = "calibration.int8.json"
CHART_FILE = "calibration.int8.svg"
MODEL = BundleModel(file=ONNX_FILES["int8"])
OTHER_BACKENDS = tuple(backend for backend in ONNX_BACKENDS if backend != DEFAULT_BACKEND)


def int8(context: ExportContext) -> StepResult:
    """Quantize by the recipe, write the graph, and judge its ranking and how much of it really runs in 8 bits."""
    result = context.int8 = _quantized(context)
    text = json.dumps(result.to_json(), indent=2) + "\n"
    context.builder.write_text(CALIBRATION_FILE, text)
    if can_draw():
        context.builder.write(CHART_FILE, lambda path: draw(result, path))
    report = context.int8_reports[DEFAULT_BACKEND]
    report = replace(report, other_failures=tuple(result.failures), notes=tuple(result.lines))
    model = replace(MODEL, parity=report.summary(), numerics=result.summary())
    model = with_score_error(model, DEFAULT_BACKEND, report)
    return StepResult(report=report, model=replace(model, backends={DEFAULT_BACKEND: True} if report else {}))


def int8_on_backend(backend: str, context: ExportContext) -> StepResult | None:
    """Return the result of the same file in another CPU backend, which computes what is not in 8 bits differently.

    The search has already judged the file there. None if the backend is not installed.
    """
    report = context.int8_reports.get(backend)
    if report is None:
        return None
    model = with_score_error(context.builder.models["int8"], backend, report)
    return StepResult(report=report, model=replace(model, backends={**model.backends, backend: bool(report)}))


def int8_native(context: ExportContext) -> StepResult | None:
    """Write the INT8 weights of the native kernels and judge them; None if the kernels cannot run the model here."""
    if not runs_natively(context.checkpoint, Precision.INT8):
        return None
    assert context.int8 is not None
    assert context.calibration is not None
    gradients = score_gradients(
        context.checkpoint,
        gradient_sites(context.checkpoint),
        context.calibration.pairs,
        max_length=context.tokenizer.max_length,
        seed=context.calibration.seed,
        progress=context.progress,
    )
    stats = context.int8.stats
    context.builder.write(
        NATIVE_FILE,
        lambda path: native_from_checkpoint(context.checkpoint, path, Precision.INT8, stats, gradients.samples),
    )
    model = replace(context.builder.models["int8"], native_file=NATIVE_FILE)
    _subtract_mean_error(context, model, gradients)
    bundle = context.builder.bundle_with(Precision.INT8, model)
    return _judged_native(context, bundle)


def int8_narrow(context: ExportContext) -> StepResult | None:
    """Judge the same weights with 7-bit activations, as processors that have AVX2 but not VNNI compute them.

    None if `int8_native` has already judged this because this processor is such a one, and if these kernels cannot run here.
    """
    model = context.builder.models["int8"]
    if NARROW in model.backends:
        return None
    with only_kinds(*(kind.name for kind in PROCESSOR_KINDS if kind.int8 == "narrow")):
        if why_not_native(Precision.INT8):
            return None
        result = _judged_native(context, context.builder.bundle_with(Precision.INT8, model))
    how = f"{result.report.backend}, with activations of 7 bits, for processors without VNNI"
    return replace(result, report=replace(result.report, backend=how))


def _judged_native(context: ExportContext, bundle: Bundle) -> StepResult:
    """Judge the native weights of a bundle with the kernels that run here."""
    report = context.judge.report(bundle, Precision.INT8, backend="native")
    place = parity_key("native", Precision.INT8)
    model = with_score_error(bundle.manifest.models["int8"], place, report)
    return StepResult(report=report, model=replace(model, backends={**model.backends, place: bool(report)}))


def _subtract_mean_error(context: ExportContext, model: BundleModel, gradients: ScoreGradients) -> None:
    """Subtract the mean error of the native kernels' logits on calibration pairs from the last bias of the head."""
    bundle = context.builder.bundle_with(Precision.INT8, model)
    with CrossEncoder(bundle, precision=Precision.INT8, backend="native", device="cpu", allow_failed=True) as scorer:
        error = (scorer.logits(gradients.pairs) - gradients.logits).mean(axis=0)
    if np.isfinite(error).all():  # otherwise the parity check reports the failure
        weights = NativeModel.open(bundle.native_file(Precision.INT8))
        context.builder.write(NATIVE_FILE, lambda path: with_shifted_logits(weights, -error, path))


def int8_gpu(context: ExportContext) -> StepResult:
    """Write the same INT8 quantization with all other tensors as in the FP16 graph; judge it with emulated GPU roundings."""
    assert context.fp16 is not None
    assert context.int8 is not None
    checkpoint, builder = context.checkpoint, context.builder
    numerics = replace(context.fp16.numerics, quantized=context.int8.numerics.quantized)
    builder.write(GPU_FILE, lambda path: onnx_from_checkpoint(checkpoint, path, numerics))
    model = replace(builder.models["int8"], gpu_file=GPU_FILE)
    report = context.judge.report_of_graph(
        rounded_after_operators(graph_of(checkpoint, numerics)),
        builder.bundle_with(Precision.INT8, model),
        Precision.INT8,
        "rounded after every operator, the rest in FP16, for GPUs",
    )
    return StepResult(report=report, model=with_score_error(model, "gpu", report))


def _quantized(context: ExportContext) -> Int8Result:
    """Search for the quantization. Each candidate is written as the bundle's file and judged; the last one stays."""
    assert context.calibration is not None
    assert context.judge.judging is not None
    return quantize_int8(
        context.checkpoint,
        context.tokenizer,
        context.calibration,
        context.judge.judging,
        partial(_ranked, context),
        context.recipe,
        TOLERANCE[Precision.INT8],
        progress=context.progress,
    )


def _ranked(context: ExportContext, graph: onnx.ModelProto) -> Iterator[tuple[str, RankingReport]]:
    """Write a candidate and judge it in each backend that runs ONNX files. Yield how it ranks the judging set there."""
    builder = context.builder
    builder.write(MODEL.file, lambda path: save_checked(graph, path))
    bundle = builder.bundle_with(Precision.INT8, MODEL)
    context.int8_reports = {}
    for backend in installed_backends():
        if backend in ONNX_BACKENDS:
            report = context.judge.report(bundle, Precision.INT8, backend=backend)
            context.int8_reports[backend] = report
            if report.ranking is not None:
                yield backend, report.ranking
