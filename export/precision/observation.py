"""`observed`: collects statistics of a model's tensors on calibration pairs."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper
from tqdm import tqdm

from ...calibration.tensor_stats import Floats, TensorStats
from ...calibration.token_moments import TokenMoments
from ...engine.batching.batch import Batch
from ...engine.batching.plan import BatchPlan
from ...engine.errors import DataFileError
from ...engine.text.encoded_pairs import EncodedPairs
from ..checkpoint.checkpoint import Checkpoint
from ..graph.session import feeds_of, session_of
from ..graph.writer import graph_of
from .quantization_points import QuantizationPoint

SAMPLE_BYTES = 512 << 20
"""Maximum memory of all samples together, for any number of calibration pairs."""
MAX_ROWS = 4096
"""Maximum number of sampled tokens per tensor."""
MOMENT_TOKENS = 32_768
"""Expected number of tokens that enter the moments, if there are that many. With 4,096 tokens, the rounding error of a MiniLM's
second feed-forward layers on other tokens is 1.5 times as large; with 100,000 it is 3 % smaller."""
NUMBERS = 64
"""Numbers that are sampled from an operand of attention, per sampled token."""
BATCH = 16
"""Maximum number of pairs in a batch."""
BATCH_BYTES = 1 << 30
"""Maximum memory for what the linear layers read, in all layers, of a batch of several pairs."""


def observed(
    checkpoint: Checkpoint,
    points: Sequence[QuantizationPoint],
    pairs: EncodedPairs,
    *,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, TensorStats]:
    """Run the FP32 graph over tokenized pairs and return the statistics of each point's tensor, by the tensor's name.

    The minimum and maximum of every channel are over all tokens. The rows are a uniform sample of the tokens, drawn with `seed`.
    Raises DataFileError for a tensor that is the same for every token, because no range fits it.
    """
    tensors = list(dict.fromkeys(point.tensor for point in points))
    graph = graph_of(checkpoint)
    graph.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in tensors)
    session = session_of(graph)
    del graph  # the session has its own copy of the weights
    generator = np.random.default_rng(seed)
    total = int(pairs.lengths.sum())
    taken: npt.NDArray[np.int64] | None = None  # indices of the sampled tokens, numbered through all batches
    samples: dict[str, list[Floats]] = {name: [] for name in tensors}
    low: dict[str, Floats] = {}
    high: dict[str, Floats] = {}
    weights = _weights_of_readers(checkpoint, points)
    moments = {name: TokenMoments(weight.shape[1]) for name, weight in weights.items()}
    share = MOMENT_TOKENS / total
    bytes_per_token = 4 * sum(weight.shape[1] for weight in weights.values())
    max_tokens = BATCH_BYTES // max(1, bytes_per_token)
    moment_generator = np.random.default_rng(seed)
    start = 0
    for batch in tqdm(
        list(_without_padding(pairs, max_tokens)), desc="Calibrating", unit="batch", disable=not progress
    ):
        values: list[Floats] = session.run(tensors, feeds_of(session, batch))
        if taken is None:
            width = sum(array.shape[-1] for array in values if array.ndim == 3)
            rows = min(total, MAX_ROWS, SAMPLE_BYTES // (4 * width))
            taken = np.sort(generator.choice(total, rows, replace=False))
        stop = start + batch.input_ids.size
        here = taken[(taken >= start) & (taken < stop)] - start
        start = stop
        counted = moment_generator.random(batch.input_ids.size) < share
        for name, array in zip(tensors, values, strict=True):
            if array.ndim == 3:
                flat = array.reshape(-1, array.shape[-1])
                samples[name].append(flat[here])
                if name in moments:
                    moments[name].add(flat[counted], weights[name])
            else:  # an operand of attention, [batch, heads, ...]; single numbers are sampled instead of tokens
                flat = array.reshape(-1, 1)
                samples[name].append(flat[generator.integers(0, len(flat), len(here) * NUMBERS)])
            low[name] = np.minimum(low.get(name, flat[0]), flat.min(axis=0))
            high[name] = np.maximum(high.get(name, flat[0]), flat.max(axis=0))
        del values, array, flat  # before the next batch is computed
    # The longest pairs come first. Shuffling makes the first n rows a uniform sample too.
    shuffle = np.random.default_rng(seed).permutation
    stats = {
        name: TensorStats(
            rows=shuffle(np.concatenate(samples.pop(name))), low=low[name], high=high[name], moments=moments.get(name)
        )
        for name in tensors
    }
    for name, each in stats.items():
        if float(np.ptp(each.rows, axis=0).max()) == 0:
            raise DataFileError(
                f"the tensor {name} is the same for all {total:,} calibration tokens, so no 8-bit range fits it; "
                "are the pairs all alike, or is the checkpoint untrained or broken?"
            )
    return stats


def _weights_of_readers(checkpoint: Checkpoint, points: Sequence[QuantizationPoint]) -> dict[str, Floats]:
    """Return the weights of all linear layers that read a tensor, float32 [outputs, channels], by the tensor's name."""
    readers: dict[str, list[str]] = {}
    for point in points:
        readers.setdefault(point.tensor, []).extend(point.linears)
    return {
        tensor: np.concatenate(found) if len(found) > 1 else found[0]  # a single one may be mapped from the file
        for tensor, linears in readers.items()
        if (found := [checkpoint.tensor(f"{linear}.weight") for linear in linears])
    }


def _without_padding(pairs: EncodedPairs, max_tokens: int) -> Iterator[Batch]:
    """Yield batches of pairs with exactly the same length, because padding would be observed as if it were text.

    A batch has at most `BATCH` pairs and, if it has several, at most `max_tokens` tokens.
    """
    order = np.argsort(-pairs.lengths, kind="stable")
    cuts = np.flatnonzero(np.diff(pairs.lengths[order])) + 1
    parts = []
    for group in np.split(order, cuts):
        rows = max(1, min(BATCH, max_tokens // int(pairs.lengths[group[0]])))
        parts += [group[start : start + rows] for start in range(0, len(group), rows)]
    widths = tuple(int(pairs.lengths[part[0]]) for part in parts)
    return BatchPlan(lengths=pairs.lengths, row_groups=tuple(parts), widths=widths).batches(pairs, pad_id=0)
