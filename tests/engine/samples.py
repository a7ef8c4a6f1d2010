"""What several tests of the engine make: texts, encoded pairs, padded batches, configs, engines, and threads."""

import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from crossrt.engine.batching.batch import Batch
from crossrt.engine.bundle.engine_file import EngineFile
from crossrt.engine.bundle.profiles import profiles_for
from crossrt.engine.precision import Precision
from crossrt.engine.selection.execution_config import CpuConfig
from crossrt.engine.text.encoded_pairs import EncodedPairs

QUERY = "where is the river"
WORDS = "berlin is a city the river long and green people live in paris eggs salt water unhappiness".split()


def passages(count: int, *, words: int = 12, seed: int = 0) -> list[str]:
    """Return random passages of 1 to `words` words of the test vocabulary."""
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=chance.randint(1, words))) for _ in range(count)]


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


def engine_file(**fields: Any) -> EngineFile:
    """Return the manifest entry of an FP16 engine for an H200, but for what is given."""
    usual: dict[str, Any] = {
        "file": "model.fp16.engine",
        "precision": "fp16",
        "library": "tensorrt",
        "version": "10.13.0",
        "gpu": "NVIDIA H200",
        "capability": "9.0",
        "profiles": profiles_for(64),
        "onnx_sha256": "",
        "build_seconds": 1.0,
        "options": {},
    }
    return EngineFile(**{**usual, **fields})


def in_threads(work: Callable[[int], object], count: int) -> None:
    """Call `work(0)`, `work(1)`, ... in so many threads that start together, and raise the first error of any."""
    start = threading.Barrier(count)

    def one(number: int) -> None:
        start.wait()
        work(number)

    with ThreadPoolExecutor(count) as threads:
        for each in [threads.submit(one, number) for number in range(count)]:
            each.result()


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
