"""BF16: weights for the native kernels. Other backends compute the FP32 file in BF16."""

from dataclasses import replace

from ...engine.backends.registry import installed_backends
from ...engine.precision import Precision
from .context import ExportContext
from .native import write_and_judge
from .step import StepResult, with_score_error

NATIVE_FILE = "model.bf16.native"


def bf16(context: ExportContext) -> StepResult:
    """Write the BF16 weights of the native kernels and judge them. The kernels must run here; see `runs_natively`."""
    report, model = write_and_judge(context, Precision.BF16, context.builder.models["fp32"], NATIVE_FILE)
    model = with_score_error(replace(model, parity=report.summary()), "native", report)
    return StepResult(report=report, model=model)


def bf16_openvino(context: ExportContext) -> StepResult | None:
    """Judge the FP32 file as OpenVINO computes it in BF16; None if OpenVINO cannot do so here."""
    if "openvino" not in installed_backends():
        return None
    from ...engine.backends.openvino import computes_bf16

    if not computes_bf16():
        return None
    model = context.builder.models["bf16"]
    report = context.judge.report(
        context.builder.bundle_with(Precision.BF16, model), Precision.BF16, backend="openvino"
    )
    model = with_score_error(model, "openvino", report)
    return StepResult(report=report, model=replace(model, backends={**model.backends, "openvino": bool(report)}))
