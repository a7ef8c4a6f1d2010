"""`choose_precision`: chooses which of a bundle's precisions is run."""

from collections.abc import Sequence

from ..bundle.bundle import Bundle
from ..errors import BundleError
from ..precision import Precision


def choose_precision(
    bundle: Bundle,
    asked: str | Precision | None,
    *,
    allow_failed: bool = False,
    fastest_first: Sequence[Precision] = (Precision.INT8, Precision.FP32),
) -> Precision:
    """Return the precision to run. None asks for FP32.

    `"auto"` takes the first of `fastest_first` that passed its parity check, otherwise FP32. In a bundle without FP32 it takes
    the bundle's first precision. BF16 needs the FP32 file; its parity check is not considered here. Raises OptionError for an
    unknown name, and BundleError for a precision that the bundle lacks or, without `allow_failed`, that failed its check.
    """
    models = bundle.manifest.models
    if asked is None:
        bundle.model_file(Precision.FP32)
        return Precision.FP32
    if asked == "auto" and Precision.FP32.value not in models:
        asked = next(iter(models), Precision.FP32.value)
    if asked == "auto":
        for candidate in fastest_first:
            model = models.get(candidate.value)
            if model is not None and (model.parity or {}).get("passed"):
                return candidate
        return Precision.FP32
    precision = Precision.parse(asked)
    if precision is Precision.BF16:
        bundle.model_file(Precision.FP32)
        return precision
    bundle.model_file(precision)
    parity = models[precision.value].parity
    if parity is not None and not parity.get("passed") and not allow_failed:
        raise BundleError(
            f"the {precision.value} model of {bundle.path} failed its check: parity.{precision.value}.json says why. Export "
            "it again, or take it as it is with allow_failed=True"
        )
    return precision
