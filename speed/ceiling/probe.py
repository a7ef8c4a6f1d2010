"""`Probe` measures how much the machine itself varies during a measurement."""

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat

import numpy as np

from .kernels import Call, installed, multiplying, shapes_of

PROBE_CALLS = 8
"""Products of one probe, which take about 65 ms. With only one or two, the wake-up of the threads would dominate the time."""
MIN_PROBES = 10


class Probe:
    """A fixed matrix product that is timed repeatedly. Its times show how much the machine itself varies."""

    def __init__(self, threads: int) -> None:
        make = next(make for name, make in multiplying("cpu").items() if installed(name))
        call = make(shapes_of("cpu")[1], "fp32", threads, "cpu")
        assert call is not None, "every runtime multiplies in FP32"
        self._call: Call = call
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads)
        self.seconds: list[float] = []
        self.run()
        self.seconds.clear()  # the first run is a warm-up

    def run(self) -> None:
        """Time the product once."""
        begin = time.perf_counter()
        list(self._pool.map(lambda call: [call() for _ in range(PROBE_CALLS)], repeat(self._call, self._threads)))
        self.seconds.append(time.perf_counter() - begin)

    @property
    def noise(self) -> float:
        """95th percentile over the median, minus 1, of at least ten runs. Runs that are missing are made now."""
        while len(self.seconds) < MIN_PROBES:
            self.run()
        return float(np.percentile(self.seconds, 95) / np.median(self.seconds) - 1)

    def close(self) -> None:
        """Stop the threads. Further calls have no effect."""
        self._pool.shutdown()
