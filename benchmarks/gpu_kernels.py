#!/usr/bin/env python3
"""How long do the kernels and matrix products of the native GPU backend take, one by one and as a whole batch in a CUDA graph?

    benchmarks/gpu_kernels.py BUNDLE... [large] --out gpu_native_kernels.json

`large` is a BERT-large with random weights, which needs no bundle. Pairs have random tokens and equal lengths. Prints
microseconds, and the TFLOP/s of the products and of the batch. The batch's rate counts only real tokens.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
from result import write_result

from crossrt import Bundle
from crossrt.engine.backends import native_cuda
from crossrt.engine.backends.native_cuda import NativeGpuExecutor
from crossrt.engine.bundle.native_weights import DTYPES, ModelDims, NativeModel
from crossrt.engine.cuda.bindings import open_cuda
from crossrt.engine.cuda.cublas import ProductKind
from crossrt.engine.cuda.cuda import Cuda, DeviceBuffer, Event, PinnedBuffer, Stream
from crossrt.engine.hardware.gpus import gpus
from crossrt.engine.text.encoded_pairs import EncodedPairs

BATCHES = ((1, 64), (10, 80), (100, 80), (256, 64), (128, 128), (256, 128), (400, 80), (64, 512))
"""Number of pairs in a batch, and of tokens in each pair."""
LARGE = ModelDims(
    **{"precision": "fp16", "hidden": 1024, "heads": 16, "head": 64, "intermediate": 4096, "layers": 24, "types": 2},
    **{"vocab": 30522, "positions": 512, "labels": 1, "dense": 2, "activation": "tanh", "epsilon": 1e-12},  # type: ignore[arg-type]
)
REPEATS = 5


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="BUNDLE")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args(words)
    cuda = open_cuda(0)
    models: dict[str, list[dict[str, Any]]] = {}
    for name in arguments.models:
        models[Path(name).name] = rows = []
        with cuda.current():
            executor = large_executor(cuda) if name == "large" else NativeGpuExecutor(Bundle.open(name), cuda)
            for pairs, length in BATCHES:
                if length <= executor.layout.max_length:
                    rows.append(row(executor, pairs, length))
                    print(name, rows[-1], flush=True)
            executor.close()
        if arguments.out:
            write_result(arguments.out, {"device": {"name": gpus()[0].name}, "models": models})


def large_executor(cuda: Cuda) -> NativeGpuExecutor:
    """Return a BERT-large whose weights repeat a block of random numbers."""
    numbers = np.random.default_rng(0).normal(0, 0.03, 1 << 22)
    arrays = tuple(np.resize(numbers, shape).astype(DTYPES[dtype]) for _, dtype, shape in LARGE.tensors())
    manifest = SimpleNamespace(max_positions=LARGE.positions, labels=LARGE.labels, architecture={})
    bundle: Any = SimpleNamespace(native_file=lambda precision: Path("large"), manifest=manifest)
    with patch.object(native_cuda, "NativeModel", SimpleNamespace(open=lambda path: NativeModel(LARGE, arrays))):
        return NativeGpuExecutor(bundle, cuda)


def row(executor: NativeGpuExecutor, count: int, length: int) -> dict[str, Any]:
    """Measure one batch."""
    cuda, dims, offsets, weights = executor.cuda, executor.dims, executor.offsets, executor.weights
    chance = np.random.default_rng(0)
    pairs = EncodedPairs(
        ids=chance.integers(0, dims.vocab, count * length).astype(np.int32),
        type_ids=np.zeros(count * length, np.uint8),
        offsets=np.arange(count + 1) * length,
    )
    shape = executor.layout.shape(pairs.lengths)
    rows, tokens = shape
    stream, memory, logits = (
        Stream(cuda),
        DeviceBuffer(cuda, executor.workspace),
        DeviceBuffer(cuda, 4 * rows * dims.labels),
    )
    inputs = {name: np.zeros(wanted, kind) for name, (kind, wanted) in executor.layout.arrays(shape).items()}
    executor.layout.fill(inputs, pairs, np.arange(count))
    buffers = {name: (PinnedBuffer(cuda, a.nbytes), DeviceBuffer(cuda, a.nbytes)) for name, a in inputs.items()}
    for name, (host, device) in buffers.items():
        host.bytes[:] = inputs[name].reshape(-1).view(np.uint8)
        stream.upload(host, device, host.size)
    stream.synchronize()
    addresses = {name: device.handle for name, (_, device) in buffers.items()} | {"logits": logits.handle}
    place = {name: memory.handle + offset for name, offset in offsets.items()}
    context = executor.context(stream.handle, memory.handle)
    width, attention_width, intermediate = dims.width, dims.attention_width, dims.intermediate

    def us(work: Callable[[], None], times: int = 20) -> float:
        work()
        stream.synchronize()
        graph = stream.captured(lambda: [work() for _ in range(times)] and None)
        begin, end, found = Event(cuda), Event(cuda), []
        for _ in range(REPEATS):
            stream.record(begin)
            stream.launch(graph)
            stream.record(end)
            stream.synchronize()
            found.append(cuda.elapsed_ms(begin.handle, end.handle) / times * 1e3)
        for each in (graph, begin, end):
            each.close()
        return round(median(found), 2)

    def kernel(name: str, blocks: tuple[int, int], number: int, *pointers: int) -> float:
        return us(lambda: executor.kernels.launch(name, blocks, stream.handle, number, *pointers))

    norm = (weights["embedding_norm.weight"], weights["embedding_norm.bias"])
    embeddings = (weights["word"], weights["position"], weights["type"])
    begins, lengths, tiles = addresses["begins"], addresses["lengths"], executor.layout.tiles(shape)
    result: dict[str, Any] = {"pairs": count, "length": length, "shape": shape}
    result["whole_us"] = us(lambda: context.enqueue(shape, addresses), 3)
    result |= {
        "embed": kernel(
            "embed",
            (-(-tokens // 4), 1),
            tokens,
            addresses["ids"],
            addresses["places"],
            *embeddings,
            *norm,
            place["hidden"],
        ),
        "attend": kernel(
            "attend", (tiles, dims.heads), tiles, addresses["tiles"], place["projected"], place["context"]
        ),
        "add_normalize": kernel("add_normalize", (-(-tokens // 4), 1), tokens, place["hidden"], place["update"], *norm),
        "attend_first": kernel(
            "attend_first",
            (-(-rows * dims.heads // 4), 1),
            *(rows, begins, lengths, place["first_query"], place["projected"], place["first_context"]),
        ),
    }
    for name, inner, outer, gelu, x, y in (
        ("query_key_value", width, 3 * attention_width, False, "hidden", "projected"),
        ("attention_output", attention_width, width, False, "context", "update"),
        ("intermediate", width, intermediate, True, "hidden", "projected"),
        ("output", intermediate, width, False, "projected", "update"),
    ):
        weight, bias = (weights[f"layer.0.{name}.{part}"] for part in ("weight", "bias"))
        product = executor.product(ProductKind(tokens, inner, outer, gelu=gelu))
        operands = (place[x], weight, bias, place[y], place["products"])
        taken = us(lambda product=product, operands=operands: product.enqueue(stream.handle, *operands))  # type: ignore[misc]
        result[name] = [taken, round(2 * tokens * inner * outer / taken / 1e6, 1)]
    layer = width * 4 * attention_width + 2 * width * intermediate
    flops = 2 * count * length * ((dims.layers - 1) * layer + 2 * width * attention_width)
    flops += 4 * (dims.layers - 1) * count * length**2 * attention_width + 2 * count * layer
    result["tflops"] = round(flops / result["whole_us"] / 1e6, 1)
    for each in (*(each for two in buffers.values() for each in two), stream, memory, logits):
        each.close()
    return result


if __name__ == "__main__":
    main()
