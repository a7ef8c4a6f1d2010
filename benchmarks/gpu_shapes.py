"""Measures a batch of each shape on a GPU. Shape buckets, batch splitting and CUDA graphs are tuned with these times."""

import contextlib
import time
from statistics import median
from typing import Any

import numpy as np

from crossrt.engine.backends.gpu_executor import GpuExecutor
from crossrt.engine.batching.batch import Batch
from crossrt.engine.batching.layout import BatchLayout
from crossrt.engine.cuda.cuda import Event
from crossrt.engine.runtime.gpu_lane import GpuLane

ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
TOKENS = (16, 32, 64, 96, 128, 192, 256)
WARM, REPEATS = 3, 15
"""A lane's third batch of a shape is the first that runs as a CUDA graph."""


def shape_costs(executor: GpuExecutor, *, vocabulary: int, labels: int) -> list[dict[str, Any]]:
    """Return `rows`, `tokens`, and the medians `ms` and `device_ms` of each shape, in milliseconds.

    `ms` is the time from tokens in memory to logits. `device_ms` leaves out the final wait: events on the stream measure it, from
    when the host begins to fill in the tokens until the batch is done. The GPU must be idle otherwise. Shapes that the executor
    does not take are left out.
    """
    cuda, layout = executor.cuda, executor.layout
    chance = np.random.default_rng(0)
    found = []
    with cuda.current(), contextlib.closing(GpuLane(executor, labels=labels)) as lane:
        begin, end = Event(cuda), Event(cuda)
        for tokens in (tokens for tokens in TOKENS if tokens <= layout.max_length):
            for rows in (rows for rows in ROWS if is_one_batch(layout, rows, tokens)):
                ids = chance.integers(0, vocabulary, (rows, tokens))
                ones = np.ones_like(ids)
                places = np.arange(rows)
                batch = Batch(input_ids=ids, attention_mask=ones, token_type_ids=ones * 0, rows=places)
                pairs, logits = batch.pairs(), np.empty((rows, labels), dtype=np.float32)
                whole, device = [], []
                for turn in range(-WARM, REPEATS):
                    start = time.perf_counter()
                    lane.stream.record(begin)
                    lane.begin(pairs, places, logits)
                    lane.stream.record(end)
                    lane.finish()
                    if turn >= 0:
                        whole.append(1e3 * (time.perf_counter() - start))
                        device.append(cuda.elapsed_ms(begin.handle, end.handle))
                found.append(
                    {
                        "rows": rows,
                        "tokens": tokens,
                        "ms": round(median(whole), 4),
                        "device_ms": round(median(device), 4),
                    }
                )
        begin.close()
        end.close()
    return found


def is_one_batch(layout: BatchLayout, rows: int, tokens: int) -> bool:
    """Tell whether the layout puts `rows` pairs of `tokens` tokens into one batch."""
    return len(layout.split(np.full(rows, tokens), batch_cost=1 << 40)) == 1
