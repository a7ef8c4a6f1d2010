"""`table_of` formats measured speeds as text, with no more digits than were measured."""

import math
from collections.abc import Sequence

from .rounding import FEW, rounded, width_of
from .speeds import Latency, Speed, Speeds, Spread

NOISY = 0.10
"""Noise above which the machine is called noisy."""
WIDE = 0.10
"""Width of a figure's spread above which the machine is also called noisy."""
CEILING_WIDTH = 0.02
"""Relative uncertainty of a ceiling. The best of many stretches varies by this share."""
AN_HOUR = 8.8e6
"""Number of passages of MS MARCO, for the estimate of scoring them all in an hour."""


def table_of(speeds: Speeds) -> str:
    """Return the machine, the workload, the ceilings, the noise, and a table of the rows."""
    workload, machine = speeds.workload, speeds.machine
    lines = [
        f"{machine.get('processor', '?')}, {machine.get('usable_cpus', '?')} processors",
        f"{workload.source}: {workload.pairs:,} pairs of {workload.mean_tokens:.0f} tokens, 99th percentile "
        f"{workload.p99_tokens:.0f}",
        *_ceilings(speeds),
        *_noise(speeds),
        "",
        *_throughput(speeds),
        *_latencies(speeds),
        *_processes(speeds),
        *_curves(speeds),
    ]
    return "\n".join(line.rstrip() for line in lines)


def _ceilings(speeds: Speeds) -> list[str]:
    lines = []
    for device, threads in dict.fromkeys((one.device, one.threads) for one in speeds.ceilings):
        found = {one.quantity: one for one in speeds.ceilings if (one.device, one.threads) == (device, threads)}
        parts = [
            f"{quantity} {rounded(found[quantity].rate, CEILING_WIDTH)} {found[quantity].unit} ({found[quantity].by})"
            if quantity in found
            else f"{quantity} unmeasured"
            for quantity in ("fp32", "bf16", "int8", "memory")
        ]
        where = f"{threads} {'thread' if threads == 1 else 'threads'}" if device == "cpu" else device
        lines.append(f"ceiling, {where}: {', '.join(parts)}")
    devices = {row.device for row in speeds.rows if not row.failed} - {one.device for one in speeds.ceilings}
    return lines + [f"ceiling, {device}: unmeasured, for lack of a PyTorch that can use it" for device in devices]


def _noise(speeds: Speeds) -> list[str]:
    line = f"one and the same work varied by {speeds.noise:.0%} (95th percentile over median)"
    wide = [row.label for row in speeds.rows if row.pairs_per_s and row.pairs_per_s.width > WIDE]
    if speeds.noise > NOISY or wide:
        of = f", with wide spreads for {', '.join(wide)}" if wide else ""
        return [
            line,
            f"THE MACHINE IS NOISY{of}: figures are rounded accordingly, and smaller differences mean nothing",
        ]
    return [line]


def _spread(found: Spread | None, noise: float) -> str:
    if found is None:
        return "-"
    width = width_of(found, noise)
    return f"{rounded(found.median, width)} ({rounded(found.p5, width)} to {rounded(found.p95, width)})"


def _middle(found: Spread | None, noise: float) -> str:
    return "-" if found is None else rounded(found.median, width_of(found, noise))


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _throughput(speeds: Speeds) -> list[str]:
    cells = [["", "pairs/s", "of ceiling", "speed of first", "max, mean difference", "top 10"]]
    failures = []
    for row in speeds.rows:
        if row.failed:
            failures.append(f"{row.label}  failed: {row.failed}")
            continue
        difference = row.difference
        overlap = None if difference is None else difference.top10_overlap
        cells.append(
            [
                row.label,
                _spread(row.pairs_per_s, speeds.noise),
                _share(row.of_ceiling),
                # The ratio is measured with interleaved requests, so that noise affects both rows alike.
                _spread(row.ratio, 0.0),
                "-" if difference is None else f"{difference.max_abs:.0e}, {difference.mean_abs:.0e}",
                "-" if overlap is None else f"{overlap:.3f}",
            ]
        )
    return [*_aligned(cells), *failures]


def _latencies(speeds: Speeds) -> list[str]:
    counts = sorted({latency.passages for row in speeds.rows for latency in row.latencies})
    if not counts:
        return []
    cells = [
        [
            "",
            *(f"{count:,} passage{'s' if count > 1 else ''}" for count in counts),
        ]
    ]
    few: dict[int, int] = {}
    for row in speeds.rows:
        if row.failed:
            continue
        by_count = {latency.passages: latency for latency in row.latencies}
        cells.append([row.label, *(_percentiles(by_count.get(count), speeds.noise) for count in counts)])
        few |= {one.passages: one.requests for one in row.latencies if one.requests < 100}
    lines = ["", "ms of one query: p50 / p95 / p99 (p50 of ceiling)", *_aligned(cells)]
    if few:
        of = ", ".join(f"{requests} requests of {count:,}" for count, requests in few.items())
        lines.append(f"  of fewer than 100 requests p99 is the slowest, of fewer than 20 p95 too: {of}")
    return lines


def _percentiles(latency: Latency | None, noise: float) -> str:
    if latency is None:
        return "-"
    low, high = latency.p50_interval or (latency.p50_ms, latency.p50_ms)
    width = (high - low) / 2 / latency.p50_ms
    width = width if latency.requests >= FEW else max(width, noise)
    share = "" if latency.of_ceiling is None else f" ({latency.of_ceiling:.0%})"
    return " / ".join(rounded(value, width) for value in (latency.p50_ms, latency.p95_ms, latency.p99_ms)) + share


def _processes(speeds: Speeds) -> list[str]:
    head = (
        "",
        "tokens/s",
        "model alone, pairs/s",
        "of ceiling",
        "padding",
        "to first score, s",
        "memory, MB",
        "warm-up, s",
    )
    cells = [list(head)]
    for row in speeds.rows:
        if row.failed:
            continue
        cells.append(
            [
                row.label,
                _middle(row.tokens_per_s, speeds.noise),
                _middle(row.model_pairs_per_s, speeds.noise),
                _share(row.model_of_ceiling),
                "-" if row.padding is None else f"{row.padding:.1%}",
                _spread(row.start_s, 0.0),
                "-" if row.memory_mb is None else f"{row.memory_mb:,.0f}",
                "-" if row.warm_up_s is None else rounded(row.warm_up_s, 0.05),
            ]
        )
    return ["", *_aligned(cells)] if len(cells) > 1 else []


def _curves(speeds: Speeds) -> list[str]:
    lines = []
    for curve in speeds.curves:
        points = ", ".join(
            f"{at:,.0f}: {_middle(found, speeds.noise)}" for at, found in zip(curve.at, curve.pairs_per_s, strict=True)
        )
        lines += ["", f"{curve.label}, pairs/s over {curve.axis}: {points}", f"  fitted: {curve.fit}"]
    if lines:
        lines += ["", *(needed(row, speeds.noise) for row in speeds.rows if row.pairs_per_s)]
    return lines


def needed(row: Speed, noise: float) -> str:
    """Return a line that says how many such machines score all of MS MARCO in an hour, computed from one machine's speed."""
    assert row.pairs_per_s is not None
    rate = AN_HOUR / 3600
    machines = math.ceil(rate / row.pairs_per_s.median)
    hours = rounded(AN_HOUR / row.pairs_per_s.median / 3600, width_of(row.pairs_per_s, noise))
    return (
        f"computed, not measured: 8.8 million passages an hour are {rate:,.0f} pairs/s, {machines:,} times this machine "
        f"with {row.label} on {row.threads} threads; alone it takes {hours} hours"
    )


def _aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in cells
    ]
