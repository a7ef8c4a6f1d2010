"""FP32: the ONNX file, and weights for the native kernels."""

from dataclasses import replace
from pathlib import Path

from ...engine.bundle.manifest import ONNX_FILES, BundleModel
from ...engine.precision import Precision
from ..graph.writer import onnx_from_checkpoint
from .context import ExportContext
from .native import runs_natively, write_and_judge
from .step import StepResult

NATIVE_FILE = "model.fp32.native"


def fp32(context: ExportContext) -> StepResult:
    """Write the FP32 graph and judge it.

    The judging set is not ranked. FP32 has no limits on rankings, so a ranking could not change the verdict.
    """
    model = BundleModel(file=ONNX_FILES["fp32"])
    context.builder.write(model.file, lambda path: _write(context, path))
    report = context.judge.report(context.builder.bundle_with(Precision.FP32, model), Precision.FP32, ranked=False)
    return StepResult(report=report, model=replace(model, parity=report.summary()))


def _write(context: ExportContext, path: Path) -> None:
    if context.exporter == "optimum":
        from ..graph.optimum import onnx_by_optimum

        context.checkpoint.check_finite()  # crossrt's own writer checks each tensor when it reads it
        onnx_by_optimum(context.checkpoint, path)
    else:
        onnx_from_checkpoint(context.checkpoint, path)


def fp32_native(context: ExportContext) -> StepResult | None:
    """Write the FP32 weights of the native kernels and judge them; None if the kernels cannot run the model here."""
    if not runs_natively(context.checkpoint, Precision.FP32):
        return None
    report, model = write_and_judge(context, Precision.FP32, context.builder.models["fp32"], NATIVE_FILE)
    return StepResult(report=report, model=model)
