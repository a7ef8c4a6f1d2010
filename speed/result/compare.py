"""`compare` finds what changed between two results by more than the noise of either."""

from collections.abc import Iterator
from dataclasses import dataclass

from ...engine.errors import DataFileError
from .rounding import rounded
from .speeds import Latency, Speed, Speeds, Spread

MEMORY_NOISE = 0.02
"""Share by which the memory of two identical processes may differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure of a row: its value, its measured interval, and whether more is better. `noise` is a share of the value."""

    name: str
    value: float
    low: float
    high: float
    more_is_better: bool
    noise: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """A figure before and after. `gain` is the share by which it improved, negative if it got worse."""

    label: str
    before: Figure
    after: Figure

    @property
    def gain(self) -> float:
        """Relative increase of a speed, or relative decrease of a time or of memory."""
        change = self.after.value / self.before.value - 1
        return change if self.before.more_is_better else -change

    @property
    def beyond_noise(self) -> bool:
        """Whether the intervals do not overlap, and the change exceeds the noise of both runs."""
        apart = self.after.low > self.before.high or self.after.high < self.before.low
        return apart and abs(self.gain) > max(self.before.noise, self.after.noise)

    def __str__(self) -> str:
        # As many digits as the noise justifies, and enough to show the change.
        width = min(max(self.before.noise, self.after.noise, abs(self.gain) / 5), abs(self.gain) / 2)
        before, after = (rounded(figure.value, width) for figure in (self.before, self.after))
        return (
            f"{self.label}, {self.before.name}: {before} -> {after} ({self.after.value / self.before.value - 1:+.0%})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The result of a comparison.

    `changed` are the figures that changed beyond noise, out of `figures` in all. `broken` are rows that fail now and did not
    before. `notes` describe both results.
    """

    changed: tuple[Changed, ...]
    figures: int
    limit: float
    broken: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def regressions(self) -> list[Changed]:
        """The figures that got worse by more than the limit."""
        return [one for one in self.changed if one.gain < -self.limit]

    def __bool__(self) -> bool:
        """Whether no row broke and no figure got worse by more than the limit."""
        return not self.regressions and not self.broken

    def __str__(self) -> str:
        lines = list(self.notes)
        worse = self.regressions
        for one in sorted(self.changed, key=lambda one: one.gain):
            lines.append(f"{'WORSE ' if one in worse else 'worse ' if one.gain < 0 else 'better'}  {one}")
        lines += [f"WORSE   {line}" for line in self.broken]
        lines.append(f"{self.figures - len(self.changed)} of {self.figures} figures did not change beyond noise")
        if self:
            lines.append(f"nothing got worse by more than {self.limit:.0%}")
        return "\n".join(lines)


def compare(before: Speeds, after: Speeds, *, limit: float = 0.05) -> Comparison:
    """Compare the rows with equal labels in two results.

    Results of the same machine and workload are compared by their figures. Otherwise each figure is taken as a share of its
    machine's ceiling, since figures of different machines or texts say nothing about crossrt. Raises DataFileError if there is
    nothing to compare.
    """
    old, new = ({row.label: row for row in speeds.rows} for speeds in (before, after))
    common = [label for label in old if label in new]
    if not common:
        raise DataFileError(
            f"the two results have no row in common: {', '.join(old)} in one, {', '.join(new)} in the other; rows are "
            "called after the bundle's folder, its precision and the backend"
        )
    notes = [f"before: {_about(before)}", f"after:  {_about(after)}"]
    reasons = [
        words
        for words, ours, theirs in (
            ("machines", _machine(before), _machine(after)),
            ("workloads", _workload(before), _workload(after)),
        )
        if ours != theirs
    ]
    if reasons:
        notes.append(f"the {' and '.join(reasons)} differ: compared are shares of each machine's own ceiling")
    alone = [f"{label} (before)" for label in old if label not in new] + [
        f"{label} (after)" for label in new if label not in old
    ]
    if alone:
        notes.append(f"in one result alone: {', '.join(alone)}")
    found: list[Changed] = []
    broken = []
    for label in common:
        if old[label].threads != new[label].threads:
            notes.append(f"{label}: {old[label].threads} threads before, {new[label].threads} after")
        if new[label].failed and not old[label].failed:
            broken.append(f"{label} failed: {new[label].failed}")
            continue
        ours, theirs = (
            {figure.name: figure for figure in figures_of(row, noise=speeds.noise, shares=bool(reasons))}
            for row, speeds in ((old[label], before), (new[label], after))
        )
        found += [
            Changed(label=label, before=figure, after=theirs[name]) for name, figure in ours.items() if name in theirs
        ]
    if not found and not broken:
        raise DataFileError(
            f"the {' and '.join(reasons) or 'rows'} differ, and the rows have no "
            f"{'share of a ceiling' if reasons else 'figure'} in common: there is nothing to compare"
        )
    changed = tuple(one for one in found if one.beyond_noise)
    return Comparison(changed=changed, figures=len(found), limit=limit, broken=tuple(broken), notes=tuple(notes))


def figures_of(row: Speed, *, noise: float, shares: bool) -> Iterator[Figure]:
    """Yield the figures of a row, with `shares` as shares of the ceiling."""
    throughput = (
        ("pairs/s", row.pairs_per_s, row.of_ceiling),
        (
            "pairs/s of the model alone",
            row.model_pairs_per_s,
            row.model_of_ceiling,
        ),
    )
    for name, spread, share in throughput:
        if spread is not None and not (shares and share is None):
            factor = share / spread.median if shares and share is not None else 1.0
            yield _figure(f"{name}, share of ceiling" if shares else name, spread, factor, noise, more_is_better=True)
    for latency in row.latencies:
        yield from _latency(latency, noise, shares)
    if not shares:
        if row.start_s is not None:
            yield _figure("s to the first score", row.start_s, 1.0, noise, more_is_better=False)
        if row.memory_mb is not None:
            value = row.memory_mb
            yield Figure(
                name="MB of memory", value=value, low=value, high=value, more_is_better=False, noise=MEMORY_NOISE
            )


def _figure(name: str, spread: Spread, factor: float, noise: float, *, more_is_better: bool) -> Figure:
    return Figure(
        name=name,
        value=spread.median * factor,
        low=spread.p5 * factor,
        high=spread.p95 * factor,
        more_is_better=more_is_better,
        noise=noise,
    )


def _latency(latency: Latency, noise: float, shares: bool) -> Iterator[Figure]:
    low, high = latency.p50_interval or (latency.p50_ms, latency.p95_ms)
    name = f"p50 with {latency.passages:,} passages"
    if not shares:
        yield Figure(name=f"ms, {name}", value=latency.p50_ms, low=low, high=high, more_is_better=False, noise=noise)
    elif latency.of_ceiling is not None:
        of = latency.of_ceiling
        yield Figure(
            name=f"share of ceiling, {name}",
            value=of,
            low=of * latency.p50_ms / high,
            high=of * latency.p50_ms / low,
            more_is_better=True,
            noise=noise,
        )


def _about(speeds: Speeds) -> str:
    return f"crossrt {speeds.versions.get('crossrt', '?')} at {speeds.commit}, noise {speeds.noise:.0%}"


def _machine(speeds: Speeds) -> dict[str, object]:
    return {name: speeds.machine.get(name) for name in ("processor", "instructions", "usable_cpus")}


def _workload(speeds: Speeds) -> tuple[object, ...]:
    work = speeds.workload
    # Bundles with other vocabularies split the same texts differently, so the number of tokens is compared too.
    return work.source, work.sha256, work.pairs, round(work.mean_tokens, 1)
