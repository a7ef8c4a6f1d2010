"""`ranker_configs` makes the rows of an evaluation. Each is a model, an exact ranking or a cascade."""

from collections.abc import Sequence

from ..engine.errors import OptionError
from ..engine.options import whole
from ..engine.precision import Precision
from ..measurement.cascade_config import CascadeConfig
from ..measurement.model_config import EXACT_NEEDS_CHEAPER_PRECISION, ModelConfig

RankerConfig = ModelConfig | CascadeConfig


def ranker_configs(
    models: Sequence[ModelConfig],
    *,
    exact_top_k: int | None = None,
    first: Sequence[ModelConfig] = (),
    keep: Sequence[int] = (),
) -> list[RankerConfig]:
    """Return `models`, each followed by its exact ranking of the best `exact_top_k`, then `first`, then the cascades.

    FP32 is exact, so it has no exact ranking. There is a cascade for each model of `first`, each of `models` in the same
    precision from another bundle, and each number of passages in `keep`. A model that is in both `models` and `first` is one row.

    Raises OptionError for numbers below 1, for exact rankings if all models are FP32, and if no cascade is possible since all
    bundles are the same. Raises BundleError if the bundle lacks what an exact ranking needs.
    """
    rows: list[RankerConfig] = []
    for model in models:
        rows.append(model)
        if exact_top_k is not None and model.precision is not Precision.FP32:
            rows.append(model.with_exact_top_k(whole("the top k of exact rankings", exact_top_k, minimum=1)))
    if exact_top_k is not None and len(rows) == len(models):
        raise OptionError(EXACT_NEEDS_CHEAPER_PRECISION)
    known = {row.label for row in rows}
    rows += [model for model in first if model.label not in known]
    for small in first:
        for model in models:
            if small.precision is model.precision and small.bundle.path.resolve() != model.bundle.path.resolve():
                rows += [
                    CascadeConfig(first=small, second=model, keep=whole("--keep", count, minimum=1)) for count in keep
                ]
    if first and not any(isinstance(row, CascadeConfig) for row in rows):
        raise OptionError(f"{first[0].bundle.path} cannot stand in front of itself; name another bundle with --first")
    return rows
