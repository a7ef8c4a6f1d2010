"""Exact rankings: the items of a request that FP32 ranks highest, found with the help of a cheaper precision."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from ..activation import Floats
from ..bundle.bundle import Bundle
from ..bundle.score_error import ScoreErrorStats
from ..errors import BackendError, BundleError, OptionError
from ..kernels.support import parity_key
from ..precision import Precision
from ..process.forks import OPENING
from ..scores import raw_relevance
from ..selection.execution_config import CpuConfig, ExecutionConfig
from ..selection.select import choose_execution
from .request import BestWindows, Request, Scored
from .scorer import Scorer, open_scorer
from .top_k import Rows, exact_top_k


def score_error(bundle: Bundle, config: ExecutionConfig) -> ScoreErrorStats:
    """Return the error of a model's scores that the export measured.

    Raises BundleError, saying what to do, for a bundle without that figure or without FP32, since exact rankings need both.
    """
    models = bundle.manifest.models
    if "fp32" not in models:
        raise BundleError(
            f"{bundle.path} holds no fp32 model to decide by; leave out exact=True, or export the checkpoint"
        )
    model = models.get(config.precision.value)
    place = parity_key(config.backend, config.precision) if config.device == "cpu" else "gpu"
    error = None if model is None else model.score_errors.get(place)
    if error is None:
        known = () if model is None else model.score_errors
        raise BundleError(
            f"{bundle.path} does not say how far the scores of {config.precision.value} on {config.backend} lie from FP32's"
            + (
                f"; it says so of {', '.join(known)}. Open it with one of these as backend=, or with precision='fp32'"
                if known
                else ", as bundles of earlier versions do not. Export it again (crossrt export CHECKPOINT BUNDLE --precision "
                f"fp32,{config.precision.value}), or use precision='fp32'"
            )
        )
    return error


MIN_PASSAGES_PER_K = 4
MIN_PASSAGES_EXTRA = 10
"""An exact ranking of the best k is faster than FP32 for the whole list if the list has at least `MIN_PASSAGES_PER_K` * k +
`MIN_PASSAGES_EXTRA` passages.

With the native kernels INT8 is 1.3 to 3.4 times as fast as FP32. At 1.5 times, INT8 saves a third of FP32's time for the list,
and about 4/3 k passages are scored again in FP32. So both ways take equal time at 4 k passages. The second pass costs another
0.6 ms, as much as four short passages with the smallest model. See docs/decisions/0025."""


def is_faster(config: ExecutionConfig, top_k: int, count: int) -> bool:
    """Tell whether the exact ranking of the best `top_k` of `count` items takes less time than FP32 for all items.

    The answer is no for backends where that was not measured: INT8 on other CPU backends is as fast as FP32 on many processors,
    and GPUs were not tried. The rule does not measure time, so that a request that is sent twice gets the same answer.
    """
    return isinstance(config, CpuConfig) and config.native and MIN_PASSAGES_PER_K * top_k + MIN_PASSAGES_EXTRA <= count


class ExactRankings:
    """The FP32 scorer of an opened model, and the rule when to use it. Any number of threads may call."""

    def __init__(self, bundle: Bundle, options: Mapping[str, Any], cheap: Scorer) -> None:
        """`options` are those of `choose_execution` that the model was opened with; `cheap` is its scorer. Opens nothing yet."""
        self._bundle = bundle
        self._options = options
        self._cheap = cheap
        self._precise: Scorer | None = None
        self._error: ScoreErrorStats | None = None
        """The score error of the backend that the model runs on; None if the bundle does not record it."""
        with suppress(BundleError):
            self._error = score_error(bundle, cheap.config)

    def error_if_exact(self, exact: bool | None, top_k: int | None, count: int) -> ScoreErrorStats | None:
        """Return the error of the model's scores if the ranking of `count` items is to be exact, or None if it is to be plain.

        `exact=None` means exact if `auto` chose the precision and `is_faster` says so. Raises OptionError and BundleError, saying
        what is missing, if `exact` was asked for and is not possible.
        """
        if exact is not None and not isinstance(exact, (bool, np.bool_)):
            raise OptionError(f"exact={exact!r}: give True, False, or None for what precision='auto' does")
        config = self._cheap.config
        if (exact is not None and not exact) or config.precision is Precision.FP32:
            return None
        if exact is None and (
            self._options["precision"] != "auto" or top_k is None or not is_faster(config, top_k, count)
        ):
            return None
        if top_k is None:
            raise OptionError("exact=True needs top_k, the number of best passages to return")
        if self._error is None and exact:
            return score_error(self._bundle, config)  # raises a BundleError that says why
        return self._error

    def scorer(self) -> Scorer:
        """Return the FP32 scorer, which is opened by the first call. Raises BackendError once the model is closed."""
        with OPENING:
            self._cheap.check_open()
            if self._precise is None:
                options = {**self._options, "precision": Precision.FP32, "engine": None, "rebuild": False}
                try:
                    config = choose_execution(self._bundle, **options)
                except BackendError:  # the backend that was asked for does not run FP32 here
                    config = choose_execution(self._bundle, **{**options, "backend": "auto"})
                self._precise = open_scorer(self._bundle, config)
            return self._precise

    def close(self) -> None:
        """Free the FP32 scorer, if it was opened. The model's own scorer must be closed first. May be called again."""
        with OPENING:
            precise = self._precise
        if precise is not None:
            precise.close()


def exact_best(
    request: Request,
    items: Sequence[Any],
    k: int,
    *,
    cheap: Scorer,
    precise: Scorer,
    error: ScoreErrorStats,
    activate: Callable[[Floats], Floats],
    progress: Callable[[int], object] = lambda rows: None,
) -> tuple[Rows, Scored]:
    """Return the rows of the `k` best items, best first, int64 [k], and what the precise scorer gives for them.

    `cheap`, whose `error` is known, scores all items. `precise` scores those that may be among the best: see `exact_top_k`.
    `activate` must be monotonic, and the request must have a relevant label. An item whose precise relevance is NaN or +Inf is
    returned among the best, so that the caller can refuse it.
    """
    assert request.relevant_label is not None
    label = request.relevant_label
    estimate = request.score(items, cheap, progress=progress)
    again = replace(request, counter=None)  # the first pass counted the truncated pairs
    found: dict[int, tuple[Floats, tuple[int, int, int]]] = {}

    def rescore(rows: Rows) -> Floats:
        scored = again.score([items[row] for row in rows.tolist()], precise)
        best = scored.best
        for place, row in enumerate(rows.tolist()):
            window = (0, 0, 1) if best is None else (best.starts[place], best.sizes[place], best.counts[place])
            found[row] = scored.logits[place], window
        relevance = raw_relevance(scored.logits, label)
        return np.where(np.isfinite(relevance), relevance, np.float32(np.inf))

    sums = estimate.best is not None and request.windows is not None and request.windows.aggregate == "sum"
    weights = estimate.best.counts.astype(np.float32) if sums and estimate.best is not None else None
    best = exact_top_k(raw_relevance(estimate.logits, label), k, rescore, error, activate=activate, weights=weights)
    chosen = [found[row] for row in best.rows.tolist()]
    logits = np.array([row for row, _ in chosen], dtype=np.float32).reshape(len(chosen), request.num_labels)
    if request.windows is None:
        return best.rows, Scored(logits=logits, best=None)
    starts, sizes, counts = np.array([window for _, window in chosen], dtype=np.int64).reshape(-1, 3).T
    return best.rows, Scored(logits=logits, best=BestWindows(starts=starts, sizes=sizes, counts=counts))
