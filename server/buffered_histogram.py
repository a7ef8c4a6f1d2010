"""`BufferedHistogram` collects values and adds them to a Prometheus histogram in bulk."""

from collections.abc import Sequence

import numpy as np
from prometheus_client import Histogram


class BufferedHistogram:
    """Values for one histogram. `add` takes 0.03 microseconds. `Histogram.observe` takes 2.5, and a request has six values.

    Only one thread may use it. `flush` is called once a second, and before the metrics are read.
    """

    def __init__(self, histogram: Histogram, bounds: Sequence[float]) -> None:
        """Take a histogram whose labels are set, and the bounds of its buckets."""
        self._histogram = histogram
        self._bounds = np.array(bounds)
        self._values: list[float] = []
        self.add = self._values.append
        """Adds one value."""

    def flush(self) -> None:
        """Add all values to the histogram. Its buckets count only their own values, and are summed up when it is read."""
        if not self._values:
            return
        values = np.array(self._values)
        self._values.clear()
        counts = np.bincount(np.searchsorted(self._bounds, values), minlength=len(self._bounds) + 1)
        for place, count in enumerate(counts.tolist()):
            if count:
                self._histogram._buckets[place].inc(count)
        self._histogram._sum.inc(float(values.sum()))
