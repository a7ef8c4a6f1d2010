"""BF16: weights for the native kernels, beside the FP32 file, which other backends compute in BF16."""

from dataclasses import replace

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
