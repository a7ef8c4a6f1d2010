"""Count the floating-point operations and the padding of a request."""

import numpy as np
import numpy.typing as npt

from ..engine.batching.plan import MAX_TOKENS, plan_batches
from ..engine.bundle.bundle import Bundle
from ..engine.selection.execution_config import CpuConfig

Lengths = npt.NDArray[np.int64]


def flops_of(bundle: Bundle, lengths: Lengths, *, native: bool = False) -> float:
    """Return the number of operations for pairs of these lengths (int64 [n], tokens), without padding.

    A layer takes 2 (4 h^2 + 2 h f) operations per token, and 4 n^2 h per pair for attention, with hidden size h and intermediate
    size f. The last layer of graphs that crossrt exports is smaller, since only its [CLS] is used. It takes 4 h^2 per token for
    keys and values. In the `native` kernels, whose heads attend to the hidden states there, it takes 4 h per token and head.
    Raises KeyError for a bundle that does not state its dimensions.
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
    """Return the share of computed tokens that is padding, 0 to 1, for a request of these lengths."""
    if config.native:  # the native kernels skip padding
        return 0.0
    made = plan_batches(
        lengths,
        batch_size=min(batch_size, config.batch_size),
        streams=config.streams,
        max_tokens=MAX_TOKENS,
        bucket_up_to=positions,
    )
    return made.padding_waste
