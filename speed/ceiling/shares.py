"""`with_shares` adds the shares of the machine's ceiling to measured speeds."""

from collections.abc import Sequence
from dataclasses import replace

from ..result.speeds import Ceiling, Latency, Speed
from .ceilings import SECONDS, again, ceiling_of, check_share


def with_shares(rows: Sequence[Speed], found: list[Ceiling], *, noise: float) -> tuple[list[Speed], list[Ceiling]]:
    """Add its share of the ceiling to each figure. Return the rows and the ceilings.

    If a share is above 1, the ceilings are measured again, in case something disturbed the first measurement. Raises
    MeasurementError if it is still above 1 by more than the machine's `noise`, a share of the rate.
    """
    shared = [_shared(row, found) for row in rows]
    if any(share > 1 for row in shared for share in _shares(row)):
        found = again(found, seconds=3 * SECONDS)
        shared = [_shared(row, found) for row in rows]
    for row in shared:
        ceiling = ceiling_of(row, found)
        for share in _shares(row):
            assert ceiling is not None
            check_share(row.label, share, ceiling, noise=noise)
    return shared, found


def _shares(row: Speed) -> list[float]:
    all_of_them = (row.of_ceiling, row.model_of_ceiling, *(latency.of_ceiling for latency in row.latencies))
    return [share for share in all_of_them if share is not None]


def _shared(row: Speed, found: Sequence[Ceiling]) -> Speed:
    ceiling = ceiling_of(row, found)
    if ceiling is None or row.gflop_per_pair is None or row.pairs_per_s is None:
        return row
    pair = row.gflop_per_pair / ceiling.rate
    latencies: list[Latency] = [
        replace(latency, of_ceiling=latency.passages * pair / (latency.p50_ms / 1e3)) for latency in row.latencies
    ]
    return replace(
        row,
        of_ceiling=row.pairs_per_s.median * pair,
        model_of_ceiling=None if row.model_pairs_per_s is None else row.model_pairs_per_s.median * pair,
        latencies=latencies,
    )
