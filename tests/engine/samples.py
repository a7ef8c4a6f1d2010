"""What several tests of the engine make: encoded pairs, padded batches and CPU configs."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from crossrt.engine.batching.batch import Batch
from crossrt.engine.precision import Precision
from crossrt.engine.runtime.execution_config import CpuConfig
from crossrt.engine.text.encoded_pairs import EncodedPairs


def pairs_of(lengths: Sequence[int], seed: int = 0) -> EncodedPairs:
    """Return pairs of these lengths in tokens, of random ids from 1 to 29,999 and random types 0 and 1."""
    chance = np.random.default_rng(seed)
    offsets = np.concatenate(([0], np.cumsum(np.array(lengths, dtype=np.int64)))).astype(np.int64)
    return EncodedPairs(
        ids=chance.integers(1, 30_000, offsets[-1]).astype(np.int32),
        type_ids=chance.integers(0, 2, offsets[-1]).astype(np.uint8),
        offsets=offsets,
    )


def batch_of(rows: int, length: int, seed: int = 0) -> Batch:
    """Return a batch for the models of `make_bundle`. All rows but the first are padding in their second half."""
    ids = np.random.default_rng(seed).integers(5, 40, (rows, length))
    mask = np.ones_like(ids)
    mask[1:, length // 2 :] = 0
    return Batch(input_ids=ids, attention_mask=mask, token_type_ids=np.zeros_like(ids), rows=np.arange(rows))


def cpu_config(backend: str, **others: Any) -> CpuConfig:
    """Return a config of FP32, two threads and two streams, but for what is given."""
    fields: dict[str, Any] = {
        "precision": Precision.FP32,
        "threads": 2,
        "streams": 2,
        "batch_size": 32,
        "reason": "a test",
    }
    return CpuConfig(backend=backend, **{**fields, **others})
