"""Ranges for symmetric 8-bit quantization: the magnitude at which a tensor is clipped."""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

LEVELS = 127  # steps on each side of 0; the range is symmetric
BINS = 2048
PERCENTILE = 99.99

Values = npt.NDArray[np.float32]
Counts = npt.NDArray[np.float64]


def clip_at(values: Values, method: str) -> float:
    """Return the magnitude at which to clip `values`, float32 of any shape, by `minmax` or a method of `METHODS`."""
    magnitudes = np.abs(values)
    greatest = float(magnitudes.max(initial=0))
    if method == "minmax" or greatest == 0:
        return greatest
    counts, edges = np.histogram(magnitudes / greatest, bins=BINS, range=(0, 1))
    return greatest * float(METHODS[method](counts.astype(np.float64), edges))


def _percentile(counts: Counts, edges: Counts) -> float:
    share = np.cumsum(counts) / counts.sum()
    return float(edges[1 + np.searchsorted(share, PERCENTILE / 100)])


def _mse(counts: Counts, edges: Counts) -> float:
    """Return the clipping point with the smallest squared error, computed from the histogram."""
    middles = (edges[1:] + edges[:-1]) / 2
    clips = edges[-1] * np.linspace(0.02, 1, 99)
    errors = []
    for clip in clips:
        step = clip / LEVELS
        rounded = np.minimum(np.round(middles / step), LEVELS) * step
        errors.append(float(counts @ (rounded - middles) ** 2))
    return float(clips[int(np.argmin(errors))])


def _entropy(counts: Counts, edges: Counts) -> float:
    """Return the clipping point with the smallest Kullback-Leibler divergence (Migacz 2017, "8-bit inference with TensorRT")."""
    counts = counts.copy()
    counts[0] = counts[1]  # exact zeros, from ReLU and padding, would outweigh everything else
    divergences = {}
    for stop in range(LEVELS + 1, len(counts) + 1, 8):
        reference = counts[:stop].copy()
        reference[-1] += counts[stop:].sum()
        # The clipped histogram, quantized to LEVELS + 1 steps. Each step's count is spread evenly over its occupied bins.
        step = np.minimum(np.arange(stop) * (LEVELS + 1) // stop, LEVELS)
        nonzero = counts[:stop] > 0
        mass = np.bincount(step, counts[:stop], LEVELS + 1)
        occupied = np.bincount(step, nonzero, LEVELS + 1)
        candidate = np.where(nonzero, mass[step] / np.maximum(occupied[step], 1), 0)
        both = (reference > 0) & (candidate > 0)
        lost = reference[(reference > 0) & (candidate == 0)].sum() / reference.sum()
        p, q = reference[both] / reference.sum(), candidate[both] / candidate.sum()
        divergences[stop] = float((p * np.log(p / q)).sum()) + lost * 10
    return float(edges[min(divergences, key=divergences.__getitem__)])


METHODS: Mapping[str, Callable[[Counts, Counts], float]] = {
    "percentile": _percentile,
    "entropy": _entropy,
    "mse": _mse,
}
