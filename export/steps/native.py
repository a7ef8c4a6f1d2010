"""Weights for the native CPU kernels, judged as those kernels compute them."""

from dataclasses import replace

from ...engine.backends.registry import installed_backends
from ...engine.bundle.manifest import BundleModel
from ...engine.precision import Precision
from ..checkpoint.checkpoint import Checkpoint
from ..parity.report import ParityReport
from ..precision.native_weights import can_be_native, native_from_checkpoint
from .context import ExportContext


def runs_natively(checkpoint: Checkpoint, precision: Precision) -> bool:
    """Tell whether the native CPU kernels run here in a precision and support this model."""
    return "native" in installed_backends(precision) and can_be_native(checkpoint)


def write_and_judge(
    context: ExportContext,
    precision: Precision,
    model: BundleModel,
    file: str,
) -> tuple[ParityReport, BundleModel]:
    """Write the native weights of a precision to `file`. Return the report, and `model` with that file."""
    builder = context.builder
    builder.write(file, lambda path: native_from_checkpoint(context.checkpoint, path, precision))
    model = replace(model, native_file=file)
    bundle = builder.bundle_with(precision, model)
    ranked = precision is not Precision.FP32  # FP32 has no limits on rankings
    return context.judge.report(bundle, precision, backend="native", ranked=ranked), model
