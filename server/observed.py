"""`Observed`: values that go into a histogram of Prometheus in bulk."""

from bisect import bisect_left
from collections.abc import Sequence

from prometheus_client import Histogram


class Observed:
    """Values for one histogram. `add` takes 0.4 microseconds; `Histogram.observe` takes 2.5, and a request has six of them.

    Used in one thread. `flush` is called before the metrics are read.
    """

    def __init__(self, histogram: Histogram, bounds: Sequence[float]) -> None:
        """Take a histogram whose labels are set, and its bounds."""
        self._histogram = histogram
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        """Add one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def flush(self) -> None:
        """Hand all values to the histogram. Its buckets are counters of their own values, which it sums up when it is read."""
        for place, count in enumerate(self._counts):
            if count:
                self._histogram._buckets[place].inc(count)
                self._counts[place] = 0
        self._histogram._sum.inc(self._sum)
        self._sum = 0.0
