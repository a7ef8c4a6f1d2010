"""`bench_configs` makes the rows to measure. Each is a bundle in one precision, with one backend and number of threads."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from ..engine.backends.registry import BACKENDS, GPU_BACKENDS, installed_backends
from ..engine.bundle.bundle import Bundle
from ..engine.bundle.resolve import bundle_from_source
from ..engine.errors import BackendError, OptionError
from ..engine.hardware.cpus import usable_cpus
from ..engine.precision import Precision
from ..engine.selection.select import choose_execution
from ..measurement.model_config import EXACT_NEEDS_CHEAPER_PRECISION, ModelConfig, Options, names_of

RUNTIMES = tuple(dict.fromkeys((*BACKENDS, *GPU_BACKENDS)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A row that cannot run here. `why` is the reason."""

    label: str
    bundle: Bundle
    precision: Precision
    backend: str
    device: str
    threads: int
    why: str


def bench_configs(
    sources: Sequence[str],
    *,
    precisions: Sequence[str] = ("fp32",),
    backends: Sequence[str] = ("auto",),
    threads: Sequence[int] = (),
    device: str | None = None,
    exact_top_k: int | None = None,
    trust_engines: bool = False,
    **hub: Any,
) -> list[ModelConfig | Missing]:
    """Return every bundle in every precision with every backend and number of threads, without opening models.

    Name FP32 first, since every row is compared with the first one. With `exact_top_k` each row of a cheaper precision is
    followed by its exact ranking of that many passages. `auto` is the backend that `CrossEncoder` would choose, and `hub` are
    options of `bundle_from_source`. A row that this machine cannot run is `Missing`.

    Raises OptionError for an unknown name, for more threads than usable processors, for a row that is named twice, and for exact
    rankings if all rows are FP32. Raises BundleError for a bundle that lacks a precision, or what an exact ranking needs, and
    BackendError if no row can run.
    """
    for backend in backends:
        if backend not in ("auto", *RUNTIMES):
            raise OptionError(f"--backend {backend!r}: one or more of auto, {', '.join(RUNTIMES)}")
    usable = usable_cpus()
    for number in threads:
        if not 1 <= number <= usable:
            raise OptionError(f"--threads {number}: this process may use {usable} processors; give 1 to {usable}")
    installed_backends()  # raises for conflicting packages, which affect all rows
    rows: dict[str, ModelConfig | Missing] = {}
    for source, name in zip(sources, names_of(sources), strict=True):
        bundle = bundle_from_source(source, **hub)
        for precision, backend, count in product(map(Precision.parse, precisions), backends, threads or (usable,)):
            options = Options(backend=backend, device=device, threads=count, trust_engines=trust_engines)
            row = _row(name, bundle, precision, options, several=len(threads) > 1)
            if row.label in rows:
                raise OptionError(f"{row.label} is asked for twice; name each bundle, precision and backend once")
            rows[row.label] = row
            if exact_top_k is not None and isinstance(row, ModelConfig) and row.precision is not Precision.FP32:
                exact = row.with_exact_top_k(exact_top_k)
                rows[exact.label] = exact
    if exact_top_k is not None and all(row.precision is Precision.FP32 for row in rows.values()):
        raise OptionError(EXACT_NEEDS_CHEAPER_PRECISION)
    if not any(isinstance(row, ModelConfig) for row in rows.values()):
        raise BackendError("; ".join(row.why for row in rows.values() if isinstance(row, Missing)))
    return list(rows.values())


def _row(name: str, bundle: Bundle, precision: Precision, options: Options, *, several: bool) -> ModelConfig | Missing:
    suffix = f" {options.threads}t" if several else ""
    try:
        execution = choose_execution(
            bundle,
            precision=precision,
            backend=options.backend,
            device=options.device,
            threads=options.threads,
            trust_engines=options.trust_engines,
        )
    except BackendError as error:
        return Missing(
            label=f"{name}.{precision.value} {options.backend}{suffix}",
            bundle=bundle,
            precision=precision,
            backend=options.backend,
            device=options.device or "cpu",
            threads=options.threads or 0,
            why=str(error),
        )
    label = f"{name}.{precision.value} {execution.backend}{suffix}"
    return ModelConfig(label=label, bundle=bundle, execution=execution, options=options)
