"""`observed`: what the tensors of a model hold on calibration pairs."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper
from tqdm import tqdm

from ...calibration.tensor_stats import Floats, TensorStats
from ...engine.batching.batch import Batch
from ...engine.batching.plan import BatchPlan
from ...engine.errors import DataFileError
from ...engine.text.encoded_pairs import EncodedPairs
from ..checkpoint.checkpoint import Checkpoint
from ..graph.writer import graph_of
from .fp16 import feeds_of, session_of
from .quantization_points import QuantizationPoint

SAMPLE_BYTES = 512 << 20
"""Of all samples together. The number of calibration pairs changes nothing about the memory."""
MOST_ROWS = 4096
NUMBERS = 64
"""Of an operand of attention, for each token of the sample."""
BATCH = 16


def observed(
    checkpoint: Checkpoint,
    points: Sequence[QuantizationPoint],
    pairs: EncodedPairs,
    *,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, TensorStats]:
    """Run the FP32 graph over tokenized pairs and return what each point's tensor held, by the tensor's name.

    The least and the greatest value of every channel are over all tokens; the rows are a uniform sample of them, drawn by `seed`.
    Raises DataFileError for a tensor that is the same for every token, which no range fits.
    """
    tensors = list(dict.fromkeys(point.tensor for point in points))
    graph = graph_of(checkpoint)
    graph.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in tensors)
    session = session_of(graph)
    generator = np.random.default_rng(seed)
    total = int(pairs.lengths.sum())
    taken: npt.NDArray[np.int64] | None = None  # tokens of the sample, counted through all batches
    samples: dict[str, list[Floats]] = {name: [] for name in tensors}
    low: dict[str, Floats] = {}
    high: dict[str, Floats] = {}
    start = 0
    for batch in tqdm(list(_without_padding(pairs)), desc="Calibrating", unit="batch", disable=not progress):
        values: list[Floats] = session.run(tensors, feeds_of(session, batch))
        if taken is None:
            width = sum(array.shape[-1] for array in values if array.ndim == 3)
            rows = min(total, MOST_ROWS, SAMPLE_BYTES // (4 * width))
            taken = np.sort(generator.choice(total, rows, replace=False))
        stop = start + batch.input_ids.size
        here = taken[(taken >= start) & (taken < stop)] - start
        start = stop
        for name, array in zip(tensors, values, strict=True):
            if array.ndim == 3:
                flat = array.reshape(-1, array.shape[-1])
                samples[name].append(flat[here])
            else:  # attention's operands, [batch, heads, ...]: single numbers stand for tokens
                flat = array.reshape(-1, 1)
                samples[name].append(flat[generator.integers(0, len(flat), len(here) * NUMBERS)])
            low[name] = np.minimum(low.get(name, flat[0]), flat.min(axis=0))
            high[name] = np.maximum(high.get(name, flat[0]), flat.max(axis=0))
    # The longest pairs came first; shuffled, any first rows are a sample too.
    shuffle = np.random.default_rng(seed).permutation
    found = {
        name: TensorStats(rows=shuffle(np.concatenate(samples.pop(name))), low=low[name], high=high[name])
        for name in tensors
    }
    for name, activation in found.items():
        if float(np.ptp(activation.rows, axis=0).max()) == 0:
            raise DataFileError(
                f"the tensor {name} is the same for all {total:,} calibration tokens, so no 8-bit range fits it; "
                "are the pairs all alike, or is the checkpoint untrained or broken?"
            )
    return found


def _without_padding(pairs: EncodedPairs) -> Iterator[Batch]:
    """Pairs of exactly equal length together: padding would be seen as if it were text."""
    order = np.argsort(-pairs.lengths, kind="stable")
    cuts = np.flatnonzero(np.diff(pairs.lengths[order])) + 1
    parts = [group[start : start + BATCH] for group in np.split(order, cuts) for start in range(0, len(group), BATCH)]
    widths = tuple(int(pairs.lengths[part[0]]) for part in parts)
    return BatchPlan(lengths=pairs.lengths, row_groups=tuple(parts), widths=widths).batches(pairs, pad_id=0)
