"""What a model computes for its pairs: operations and padding."""

import numpy as np
import numpy.typing as npt

from ..engine.batching.plan import plan_batches
from ..engine.bundle.bundle import Bundle
from ..engine.runtime.execution_config import CpuConfig

Lengths = npt.NDArray[np.int64]


def flops_of(bundle: Bundle, lengths: Lengths, *, native: bool = False) -> float:
    """Return the operations that pairs of these lengths (int64 [n], tokens) need, padding not counted.

    Each layer: 2 (4 h^2 + 2 h f) a token and 4 n^2 h a pair for attention; in crossrt's own graph the last layer, of
    which only [CLS] is used, keys and values alone, 4 h^2 a token, and in the `native` kernels, whose heads attend to the
    hidden states there, 4 h for each of them. Raises KeyError for a bundle that does not say its dimensions.
    """
    shape = bundle.manifest.architecture
    layers, hidden, inner = (int(shape[name]) for name in ("layers", "hidden_size", "intermediate_size"))
    tokens, squares = float(lengths.sum()), float((lengths.astype(np.float64) ** 2).sum())
    whole = 2 * tokens * (4 * hidden**2 + 2 * hidden * inner) + 4 * squares * hidden
    if bundle.manifest.source.get("exporter", "crossrt") != "crossrt":
        return layers * whole
    last = 4 * tokens * hidden * (int(shape["attention_heads"]) if native else hidden)
    return (layers - 1) * whole + last


def padding_of(config: CpuConfig, positions: int, lengths: Lengths, *, batch_size: int) -> float:
    """Return the share of computed tokens that is padding, 0 to 1, when a request of these lengths runs as streams."""
    if config.native:  # batches are padded on the way, and computed without it
        return 0.0
    made = plan_batches(
        lengths,
        batch_size=min(batch_size, config.batch_size),
        streams=config.streams,
        few_shapes_to=positions,
    )
    return made.padding_waste
