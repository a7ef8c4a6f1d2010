"""`add_relative_bias`: MPNet's relative-position bias, which is added to the attention scores of all layers (Song et al. 2020,
arXiv:2004.09297). It is computed once per batch and added to the mask, so that attention has the form that TensorRT fuses."""

import numpy as np
import numpy.typing as npt

from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.dimensions import MPNET_BUCKETS
from .typed_graph import TypedGraph

MAX_DISTANCE = 128
"""All distances from this one on share the last bucket. It is transformers' default, which no configuration can change."""


def add_relative_bias(graph: TypedGraph, checkpoint: Checkpoint, length: str) -> str:
    """Add the bias of each head, query and key, [heads, tokens, tokens]. `length` is the number of tokens, int64 [1]."""
    most = checkpoint.dimensions.positions
    by_distance = checkpoint.tensor("relative.weight")[buckets(np.arange(1 - most, most))].T
    zero, axis_1d = graph.integers("zero", [0]), graph.integers("axis_1d", [1])
    tokens = graph.integers("positions.numbers", np.arange(most))
    tokens = graph.add("Slice", [tokens, zero, length, zero], "positions.tokens")
    queries = graph.add("Unsqueeze", [tokens, axis_1d], "positions.queries")
    distances = graph.add("Sub", [tokens, queries], "positions.distances")
    index = graph.add("Add", [distances, graph.integers("positions.middle", [most - 1])], "positions.index")
    table = graph.constant("relative_bias.by_distance", by_distance)
    return graph.add("Gather", [table, index], "relative_bias", axis=1)


def buckets(distances: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the bucket of each distance (key position - query position).

    Half of the buckets are for keys that come after the query. In each half, the first eight buckets hold one distance each, and
    the others grow on a logarithmic scale. The computation uses PyTorch in FP32, as in transformers, because NumPy may round a
    logarithm to the other side of an integer.
    """
    import torch

    backwards = torch.from_numpy(-distances)
    half = MPNET_BUCKETS // 2
    exact = half // 2
    away = backwards.abs()
    logarithmic = torch.log(away.float() / exact) / np.log(MAX_DISTANCE / exact) * (half - exact)
    far = (exact + logarithmic.clamp(min=0).long()).clamp(max=half - 1)
    chosen: npt.NDArray[np.int64] = ((backwards < 0) * half + torch.where(away < exact, away, far)).numpy()
    return chosen
