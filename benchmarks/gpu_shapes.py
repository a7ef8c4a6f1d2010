"""What batches of each shape take on a GPU, one at a time: what the buckets, the cut into batches and graphs are tuned by."""

import time
from statistics import median
from typing import Any

import numpy as np

from crossrt import CrossEncoder
from crossrt.engine.batching.batch import Batch
from crossrt.engine.cuda.cuda import Event

ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
TOKENS = (16, 32, 64, 96, 128, 192, 256)
WARM, REPEATS = 3, 15
"""A lane's third batch of a shape is the first by a graph."""


def shape_costs(model: CrossEncoder, vocabulary: int) -> list[dict[str, Any]]:
    """Return `rows`, `tokens`, and medians: `ms`, from tokens in memory to logits, and `device_ms`, without the last wait.

    The second is by the stream's clock, from when the host begins to fill in the tokens until they have been computed.
    `model` is open on one GPU and computes nothing else meanwhile. Shapes that its engine does not take are left out.
    """
    lane = model._scorer._devices[0][0]  # type: ignore[union-attr]
    batches = lane._layout
    chance = np.random.default_rng(0)
    found = []
    with lane.cuda.current():
        begin, end = Event(lane.cuda), Event(lane.cuda)
        for tokens in (tokens for tokens in TOKENS if tokens <= batches.longest):
            for rows in (rows for rows in ROWS if len(batches.split(np.full(rows, tokens), batch_cost=1 << 40)) == 1):
                ids = chance.integers(0, vocabulary, (rows, tokens))
                ones = np.ones_like(ids)
                places = np.arange(rows)
                batch = Batch(input_ids=ids, attention_mask=ones, token_type_ids=ones * 0, rows=places)
                pairs, logits = batch.pairs(), np.empty((rows, lane._labels), dtype=np.float32)
                whole, device = [], []
                for turn in range(-WARM, REPEATS):
                    start = time.perf_counter()
                    lane._stream.record(begin)
                    lane.begin(pairs, places, logits)
                    lane._stream.record(end)
                    lane.finish()
                    if turn >= 0:
                        whole.append(1e3 * (time.perf_counter() - start))
                        device.append(lane.cuda.elapsed_ms(begin.handle, end.handle))
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
