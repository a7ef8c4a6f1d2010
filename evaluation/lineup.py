"""`lineup`: the rows of an evaluation, each a model, an exact ranking or a cascade."""

from collections.abc import Sequence

from ..engine.errors import OptionError
from ..engine.options import whole
from ..engine.precision import Precision
from ..measurement.cascade_config import CascadeConfig
from ..measurement.model_config import FP32_ALONE, ModelConfig

RankerConfig = ModelConfig | CascadeConfig


def lineup(
    models: Sequence[ModelConfig],
    *,
    exact_top_k: int | None = None,
    first: Sequence[ModelConfig] = (),
    keep: Sequence[int] = (),
) -> list[RankerConfig]:
    """Return `models`, each followed by its exact ranking of the best `exact_top_k`, then `first`, then the cascades.

    FP32 has no exact ranking, since it is exact. A cascade is a model of `first` in front of each of `models` in the same
    precision, for each number of passages to `keep`. A model that is in both is one row.

    Raises OptionError for numbers below 1, for exact rankings of FP32 alone, and for a cascade of one bundle; BundleError
    where an exact ranking lacks what it needs in the bundle.
    """
    rows: list[RankerConfig] = []
    for model in models:
        rows.append(model)
        if exact_top_k is not None and model.precision is not Precision.FP32:
            rows.append(model.exactly(whole("the top k of exact rankings", exact_top_k, least=1)))
    if exact_top_k is not None and len(rows) == len(models):
        raise OptionError(FP32_ALONE)
    known = {row.label for row in rows}
    rows += [model for model in first if model.label not in known]
    for small in first:
        for model in models:
            if small.precision is model.precision and small.bundle.path.resolve() != model.bundle.path.resolve():
                rows += [
                    CascadeConfig(first=small, second=model, keep=whole("--keep", count, least=1)) for count in keep
                ]
    if first and not any(isinstance(row, CascadeConfig) for row in rows):
        raise OptionError(f"{first[0].bundle.path} cannot stand in front of itself; name another bundle with --first")
    return rows
