"""FP16: the ONNX file, the same with ONNX Runtime's fused operators, and weights for the native GPU kernels.

All three are for GPUs. They are judged on the CPU, which emulates every rounding of the GPU
(`export/precision/fp16_emulation.py`).
"""

from dataclasses import asdict, replace

from ...engine.bundle.manifest import ONNX_FILES, BundleModel
from ...engine.precision import Precision
from ..graph.encoder import ONNX_RUNTIME
from ..graph.numerics import Numerics
from ..graph.session import batches_of
from ..graph.writer import graph_of, onnx_from_checkpoint
from ..parity.pairs import builtin_pairs
from ..parity.report import ParityReport
from ..precision.fp16 import Fp16Choice, choose_fp16
from ..precision.fp16_emulation import rounded_after_operators, rounded_where_stored
from ..precision.native_weights import can_be_native, native_from_checkpoint
from ..precision.tolerance import TOLERANCE
from .context import ExportContext
from .step import StepResult, with_score_error

FUSED_FILE = "model.fp16.fused.onnx"
NATIVE_FILE = "model.fp16.native"
MAGNITUDE_PAIRS = 200
"""Calibration pairs, in addition to the built-in ones, that decide which tensors stay in FP32."""


def fp16(context: ExportContext) -> StepResult:
    """Choose which tensors stay in FP32, write the FP16 graph and judge it."""
    choice = context.fp16 = _choice(context)
    model = BundleModel(file=ONNX_FILES["fp16"])
    report = _write_and_judge(context, model, choice.numerics)
    lines = tuple(f"  stays in FP32        {tensor.name}: {tensor.reason}" for tensor in choice.fp32_tensors)
    report = replace(report, notes=lines)
    calibration = context.calibration
    numerics = {
        "float32": [asdict(tensor) for tensor in choice.fp32_tensors],
        "chosen_on": calibration
        and {"source": calibration.source, "seed": calibration.seed, "sha256": calibration.sha256},
    }
    model = replace(model, parity=report.summary(), numerics=numerics)
    return StepResult(report=report, model=with_score_error(model, "gpu", report))


def fp16_fused(context: ExportContext) -> StepResult | None:
    """Write the graph with ONNX Runtime's fused operators, for its CUDA provider; None if nothing is fused."""
    assert context.fp16 is not None
    numerics = replace(context.fp16.numerics, fused=True)
    if not any(node.domain == ONNX_RUNTIME for node in graph_of(context.checkpoint, numerics).graph.node):
        return None
    report = _write_and_judge(context, BundleModel(file=FUSED_FILE), numerics)
    return StepResult(
        report=replace(report, backend=f"{report.backend}, in its fused operators, for GPUs"),
        model=replace(context.builder.models["fp16"], fused_file=FUSED_FILE),
    )


def fp16_native(context: ExportContext) -> StepResult | None:
    """Write the weights of the native GPU kernels and judge them; None if the kernels do not support the model.

    The kernels' roundings are emulated on the CPU, so the export needs no GPU.
    """
    checkpoint, builder = context.checkpoint, context.builder
    if not can_be_native(checkpoint, for_gpus=True):
        return None
    builder.write(NATIVE_FILE, lambda path: native_from_checkpoint(checkpoint, path, Precision.FP16))
    model = replace(builder.models["fp16"], native_file=NATIVE_FILE)
    report = context.judge.report_of_graph(
        rounded_where_stored(checkpoint),
        builder.bundle_with(Precision.FP16, model),
        Precision.FP16,
        "rounded as the native kernels do, for GPUs",
    )
    return StepResult(report=report, model=model)


def _choice(context: ExportContext) -> Fp16Choice:
    pairs = list(builtin_pairs(context.checkpoint.max_length))
    if context.calibration is not None:
        pairs += context.calibration.pairs[:MAGNITUDE_PAIRS]
    batches = list(batches_of(context.tokenizer, pairs, pad_id=context.checkpoint.pad_token_id))
    limit = TOLERANCE[Precision.FP16].max_abs
    return choose_fp16(context.checkpoint, batches, max_abs=limit, progress=context.progress)


def _write_and_judge(context: ExportContext, model: BundleModel, numerics: Numerics) -> ParityReport:
    """Write an FP16 graph and judge it twice: as it runs here, and with a rounding after every operator, as on a GPU.

    The first check shows that the file loads and accepts the same inputs. The second shows how a GPU's arithmetic changes the
    scores. Its report is returned unless the first check fails.
    """
    builder, judge = context.builder, context.judge
    builder.write(model.file, lambda path: onnx_from_checkpoint(context.checkpoint, path, numerics))
    bundle = builder.bundle_with(Precision.FP16, model)
    # The first check ranks the judging set only if FP16 has limits on rankings. Without limits, no ranking can make the check
    # fail, and the report of a first check that passed is discarded. Ranking takes as long as in the second check.
    if not judge.report(bundle, Precision.FP16, ranked=TOLERANCE[Precision.FP16].limits_ranking):
        return judge.report(bundle, Precision.FP16)
    return judge.report_of_graph(
        rounded_after_operators(graph_of(context.checkpoint, numerics)),
        bundle,
        Precision.FP16,
        "rounded after every operator",
    )
