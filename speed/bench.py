"""`bench` measures the speed of rows on this machine, and the machine's own ceilings."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..engine.bundle.manifest import MANIFEST
from ..engine.errors import BackendError
from ..engine.files.digests import sha256_of
from ..engine.precision import Precision
from ..measurement.environment import commit, machine, versions
from ..measurement.model_config import ModelConfig
from .bench_configs import Missing
from .ceiling.ceilings import SECONDS, again, ceilings
from .ceiling.probe import Probe
from .ceiling.shares import with_shares
from .child import first_score_s, peak_mb
from .figures import identity, reference_of, speed_of
from .measure import Floats, Plan, Row, measure, opened, warm_up
from .result.speeds import Ceiling, Curve, Speed, Speeds, Spread, Workload
from .scaling import curves_of, need_scipy
from .texts import Texts

Failures = dict[str, str]
"""The reason why a row has no figures, by label."""


def bench(
    rows: Sequence[ModelConfig | Missing],
    texts: Texts,
    plan: Plan,
    *,
    scaling: bool = False,
    known: Sequence[Ceiling] = (),
    stretch_s: float = SECONDS,
    progress: bool = False,
) -> Speeds:
    """Measure the rows in turns, the machine's ceilings before and after, and the noise in between.

    A row that fails keeps its place, with the reason. `known` are ceilings measured earlier, which replace the first measurement.
    `stretch_s` is the length, in seconds, of one stretch of a ceiling's measurement. Raises MeasurementError for a row above its
    ceiling, and BackendError if no row can run.
    """
    if scaling:
        need_scipy()
    configs = [row for row in rows if isinstance(row, ModelConfig)]
    failed = {row.label: row.why for row in rows if isinstance(row, Missing)}
    steps = plan.starts + 2 * len(configs) + plan.repeats + len(plan.counts) + 3 + scaling * len(configs)
    with tqdm(total=steps, desc="Measuring", unit="step", disable=not progress) as bar:

        def step() -> None:
            bar.update(1)

        found = list(known) or [
            ceiling
            for threads, device in dict.fromkeys((one.execution.threads, one.execution.device) for one in configs)
            for ceiling in ceilings(threads, device=device, seconds=stretch_s)
        ]
        step()
        starts = _starts(configs, plan, failed, step)
        speeds, memory, workload, noise = _measured(configs, texts, plan, failed, step)
        found = again(found, seconds=stretch_s)
        step()
        speeds = {
            label: replace(speed, start_s=starts.get(label), memory_mb=memory.get(label))
            for label, speed in speeds.items()
        }
        shared, found = with_shares(list(speeds.values()), found, noise=noise)
        speeds = {speed.label: speed for speed in shared}
        curves: list[Curve] = []
        for config in configs if scaling else ():
            if config.label not in failed and config.top_k is None:
                curves += curves_of(config, texts, plan)
            step()
    return Speeds(
        machine=machine(),
        versions=versions("openvino"),
        commit=commit(),
        workload=workload,
        ceilings=found,
        noise=noise,
        rows=[speeds[row.label] if row.label in speeds else _failed(row, failed[row.label]) for row in rows],
        curves=curves,
        date=date.today().isoformat(),
    )


def _starts(
    configs: Sequence[ModelConfig], plan: Plan, failed: Failures, step: Callable[[], None]
) -> dict[str, Spread]:
    """Start processes in turns. The first of each row does not count, since it fills the file cache and OpenVINO's cache."""
    seconds: dict[str, list[float]] = {}
    for turn in range(plan.starts + 1 if plan.starts else 0):
        for config in configs:
            if config.label not in failed:
                try:
                    taken = first_score_s(config)
                except BackendError as error:
                    failed[config.label] = str(error)
                    continue
                if turn:
                    seconds.setdefault(config.label, []).append(taken)
        if turn:
            step()
    return {label: Spread.of(taken) for label, taken in seconds.items() if label not in failed}


def _measured(
    configs: Sequence[ModelConfig], texts: Texts, plan: Plan, failed: Failures, step: Callable[[], None]
) -> tuple[dict[str, Speed], dict[str, float], Workload, float]:
    """Measure all rows. Return the figures by label, the memory by label, the workload, and the noise."""
    memory: dict[str, float] = {}
    opened_rows: list[Row] = []
    probe = Probe(max(config.execution.threads for config in configs))
    try:
        for config in configs:
            if config.label not in failed:
                try:
                    opened_rows.append(opened(config, texts, plan))
                    warm_up(opened_rows[-1])
                except Exception as error:  # out of memory, a failing operator: errors of runtimes share no base class
                    failed[config.label] = f"{type(error).__name__}: {error}"
                    opened_rows = _without(opened_rows, config.label)
            step()
        if not opened_rows:
            raise BackendError("; ".join(failed.values()))
        measure(opened_rows, plan, probe, progress=step)
        noise = probe.noise
        references: dict[Path, list[Floats]] = {}
        for row in opened_rows:
            if row.config.precision is Precision.FP32:
                references.setdefault(row.config.bundle.path, row.logits)
        speeds: dict[str, Speed] = {}
        for row in opened_rows:
            path = row.config.bundle.path
            if path not in references:
                references[path] = reference_of(row)
            try:
                speeds[row.config.label] = speed_of(row, opened_rows[0], references[path])
            except BackendError as error:
                failed[row.config.label] = str(error)
        workload = _workload(opened_rows[0], texts)
        requests = {
            row.config.label: [row.requests[0], *(each[0] for each in row.by_count.values())] for row in opened_rows
        }
    finally:
        probe.close()
        for row in opened_rows:
            row.model.close()
    for config in configs:
        if plan.memory and config.label in speeds:
            try:
                memory[config.label] = peak_mb(config, requests[config.label])
            except BackendError as error:
                failed[config.label] = str(error)
                del speeds[config.label]
        step()
    return speeds, memory, workload, noise


def _without(rows: Sequence[Row], label: str) -> list[Row]:
    for row in rows:
        if row.config.label == label:
            row.model.close()
    return [row for row in rows if row.config.label != label]


def _workload(row: Row, texts: Texts) -> Workload:
    encoder = row.config.bundle.pair_tokenizer(max_length=row.config.options.max_length)
    return texts.workload([pair for request in row.requests for pair in request], encoder)


def _failed(row: ModelConfig | Missing, why: str) -> Speed:
    if isinstance(row, ModelConfig):
        return Speed(**identity(row), failed=why, latencies=[])
    fields: dict[str, Any] = {
        "label": row.label,
        "model": str(row.bundle.manifest.source.get("id")),
        "bundle_sha256": sha256_of(row.bundle.path / MANIFEST),
        "precision": row.precision.value,
        "backend": row.backend,
        "device": row.device,
        "threads": row.threads,
        "runs_on": row.backend,
    }
    return Speed(**fields, failed=row.why, latencies=[])
