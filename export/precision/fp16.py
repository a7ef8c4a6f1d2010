"""`choose_fp16`: chooses which tensors of a model cannot be FP16.

It looks for overflow in two ways: the largest magnitude of every tensor in an FP32 run, and an FP32 graph that rounds to FP16
after every operator (`fp16_emulation.py`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from tqdm import tqdm

from ...engine.batching.batch import Batch
from ...engine.errors import CheckpointError
from ..checkpoint.checkpoint import Checkpoint
from ..graph.numerics import FP16, FP16_MAX, FP32, Numerics
from ..graph.session import logits_of
from ..graph.writer import graph_of
from .fp16_emulation import rounded_after_operators
from .magnitudes import magnitudes

MARGIN = 4.0
"""A tensor that comes within this factor of FP16's largest number stays FP32, because other texts may give larger values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fp32Tensor:
    """A tensor, or a part with all its tensors, that stays in FP32, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fp16Choice:
    """How a checkpoint's FP16 graph is computed, and which tensors stay in FP32.

    `error` is the largest |logit - FP32 logit| on the pairs that the choice is based on, with a rounding after every operator.
    """

    numerics: Numerics
    fp32_tensors: tuple[Fp32Tensor, ...]
    error: float


def choose_fp16(
    checkpoint: Checkpoint, batches: Sequence[Batch], *, max_abs: float, progress: bool = False
) -> Fp16Choice:
    """Choose which tensors of the FP16 graph stay FP32, from their values on `batches` of real pairs.

    First, these are the tensors that would overflow, with a margin of four. Then, while the error of the logits exceeds half of
    `max_abs`, the part of the model whose FP32 computation reduces the error most is added. Raises CheckpointError when the FP32
    graph itself overflows.
    """
    # The graph is made for each use and not kept, because its weights take as much memory as the session that computes it.
    expected = logits_of(graph_of(checkpoint, FP32), batches)
    if not np.isfinite(expected).all():
        raise CheckpointError(f"{checkpoint.path}: the FP32 model itself gives NaN or Inf on the calibration pairs")
    largest = magnitudes(
        graph_of(checkpoint, FP32), tqdm(batches, desc="FP16 magnitudes", unit="batch", disable=not progress)
    )
    overflowing = {name: value for name, value in largest.items() if value * MARGIN > FP16_MAX}
    fp32_tensors = [
        Fp32Tensor(name=name, reason=f"magnitude {value:,.0f}; FP16 ends at {FP16_MAX:,.0f}")
        for name, value in overflowing.items()
    ]
    numerics = replace(FP16, fp32_tensors=frozenset(overflowing))

    def error_of(candidate: Numerics) -> float:
        logits = logits_of(rounded_after_operators(graph_of(checkpoint, candidate)), batches)
        return float(np.nan_to_num(np.abs(logits - expected), nan=np.inf).max())

    parts = _parts(largest)
    error = error_of(numerics)
    while error > max_abs / 2 and parts:
        errors = {
            part: error_of(replace(numerics, fp32_tensors=numerics.fp32_tensors | names))
            for part, names in tqdm(parts.items(), desc="FP16 parts", unit="part", disable=not progress)
        }
        best = min(errors, key=errors.__getitem__)
        numerics = replace(numerics, fp32_tensors=numerics.fp32_tensors | parts.pop(best))
        fp32_tensors.append(Fp32Tensor(name=best, reason=f"error {error:.1e} with it, {errors[best]:.1e} without"))
        error = errors[best]
    return Fp16Choice(numerics=numerics, fp32_tensors=tuple(fp32_tensors), error=error)


def _parts(names: Iterable[str]) -> dict[str, frozenset[str]]:
    """Group tensors by part: the embeddings, and of each layer the attention, the feed-forward layers and the residual path."""
    parts: dict[str, set[str]] = {}
    for name in names:
        pieces = name.split(".")
        if pieces[0] != "layer":
            part = "embeddings"
        elif "residual" in name or "norm" in name:
            part = f"layer.{pieces[1]}.residual"
        else:
            inner = pieces[2].startswith(("intermediate", "activation", "output"))
            part = f"layer.{pieces[1]}.{'feed_forward' if inner else 'attention'}"
        parts.setdefault(part, set()).add(name)
    return {part: frozenset(members) for part, members in parts.items()}
