#!/usr/bin/env python3
"""How many pairs per second do the fifteen published architectures score here, and what do a million pairs cost?

    benchmarks/zoo.py --out benchmarks/results/zoo.json --price-per-hour 0.10
    benchmarks/zoo.py --out /tmp/zoo.json --only TinyBERT-L-2-v2 --only electra-base

Measures each at full size with seeded random weights, in FP32, BF16 and INT8 on each backend, in turns. The table also has the
V100 speed from the model's card. Speed does not depend on the weights, and the scores mean nothing. INT8 is the exporter's graph
with every linear layer in 8 bits, with ranges from a few pairs, without calibration or parity checks. A calibrated model keeps
some channels in floating point, and is somewhat slower.

A request is 100 pairs as long as MS MARCO's, fewer for large models. The result is written after each model, and an interrupted
run continues there. `--price-per-hour` is the price of this machine.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from crossrt.calibration.recipe import Recipe
from crossrt.engine.backends.registry import BACKENDS
from crossrt.engine.bundle.bundle import Bundle
from crossrt.engine.bundle.manifest import ONNX_FILES, TOKENIZER, BundleModel
from crossrt.engine.files.cache import VARIABLE
from crossrt.engine.files.publish import published_file
from crossrt.engine.kernels.support import NARROW
from crossrt.engine.precision import Precision
from crossrt.engine.text.pair_tokenizer import PairTokenizer, without_truncation_and_padding
from crossrt.engine.text.typical_pairs import typical_pairs
from crossrt.export.bundle.manifest import manifest_of, write_manifest
from crossrt.export.checkpoint.checkpoint import Checkpoint
from crossrt.export.checkpoint.pretrained import tokenizer_of
from crossrt.export.graph.numerics import Numerics
from crossrt.export.graph.writer import onnx_from_checkpoint
from crossrt.export.precision.int8 import quantizations
from crossrt.export.precision.native_weights import native_from_checkpoint
from crossrt.export.precision.observation import observed
from crossrt.export.precision.quantization_points import quantization_points
from crossrt.measurement.environment import commit, machine
from crossrt.speed.bench import bench
from crossrt.speed.bench_configs import Missing, bench_configs
from crossrt.speed.ceiling.ceilings import ceilings, higher
from crossrt.speed.ceiling.shares import with_shares
from crossrt.speed.measure import LIST, Plan
from crossrt.speed.operations import flops_of
from crossrt.speed.result.rounding import rounded, width_of
from crossrt.speed.result.speeds import Ceiling, Speed, Speeds
from crossrt.speed.texts import Texts

sys.path.append(str(Path(__file__).resolve().parent.parent / "scripts"))
from model_zoo import ZooModel, selected, write_model

REPEATS = 3
GFLOP = 500.0
"""GFLOP of a request to a large model. It limits a request of the largest model to seconds."""
MIN_PAIRS = 16
"""Least number of pairs in a request: two batches for each of a few processors."""
RANGE_PAIRS = 8
STRETCH_S = 0.1


def main() -> None:
    """Measure the models that the result lacks, write it after each model, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file; an interrupted run continues there")
    parser.add_argument("--only", action="append", help="part of a model's name; may be repeated")
    parser.add_argument("--price-per-hour", type=float, help="of this machine, in any currency")
    arguments = parser.parse_args()
    models = selected(arguments.only)
    if not models:
        parser.error(f"no model is called {arguments.only}")
    whole = Speeds.read(arguments.out) if arguments.out.exists() else None
    if whole is not None and (whole.machine, whole.commit) != (machine(), commit()):
        parser.error(f"{arguments.out} is of another machine or commit; give another --out")
    found = list(whole.ceilings) if whole is not None else ceilings(machine()["usable_cpus"])
    for model in models:
        if whole is not None and model.name in {row.model for row in whole.rows}:
            continue
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            os.environ[VARIABLE] = folder  # a temporary cache: it holds gigabytes that are not used again
            bundle = write_bundle(model, Path(folder))
            made = time.perf_counter()
            speeds = measured(model, bundle, found)
        print(
            f"{model.name}: {made - begin:.0f} s to make, {time.perf_counter() - made:.0f} s to measure",
            file=sys.stderr,
            flush=True,
        )
        whole = speeds if whole is None else joined(whole, speeds)
        found = list(whole.ceilings)
        with published_file(arguments.out) as file:
            file.write(whole.to_json())
    assert whole is not None
    print("\n".join(table(whole, arguments.price_per_hour)))


def write_bundle(model: ZooModel, folder: Path) -> Path:
    """Write the model as a bundle of FP32, BF16 and INT8, without parity checks."""
    source = write_model(model, folder / "checkpoints")
    checkpoint = Checkpoint.read(source)
    bundle = folder / model.name.rpartition("/")[2]
    bundle.mkdir()
    tokenizer = without_truncation_and_padding(tokenizer_of(checkpoint).backend_tokenizer.to_str())
    (bundle / TOKENIZER).write_text(tokenizer, encoding="utf-8")
    onnx_from_checkpoint(checkpoint, bundle / ONNX_FILES["fp32"])
    recipe = Recipe(method="minmax")
    encoder = PairTokenizer(
        Tokenizer.from_str(tokenizer), max_length=checkpoint.max_length, truncation_side=checkpoint.truncation_side
    )
    pairs = typical_pairs(Tokenizer.from_str(tokenizer), RANGE_PAIRS, seed=1)
    seen = observed(checkpoint, quantization_points(checkpoint, recipe), encoder.encode(pairs))
    numerics = Numerics(quantized=quantizations(checkpoint, seen, recipe))
    onnx_from_checkpoint(checkpoint, bundle / ONNX_FILES["int8"], numerics)
    manifest = manifest_of(checkpoint, {"id": model.name, "exporter": "crossrt"})
    for precision in (Precision.FP32, Precision.BF16, Precision.INT8):
        native_from_checkpoint(checkpoint, bundle / f"model.{precision.value}.native", precision, seen)
    models = {
        "fp32": BundleModel(file=ONNX_FILES["fp32"], native_file="model.fp32.native"),
        "bf16": BundleModel(file=ONNX_FILES["fp32"], native_file="model.bf16.native"),
        # Narrow INT8 runs only if it passed its check. Nothing is checked here, so it is marked as passed.
        "int8": BundleModel(file=ONNX_FILES["int8"], native_file="model.int8.native", backends={NARROW: True}),
    }
    write_manifest(bundle, replace(manifest, models=models))
    shutil.rmtree(source)
    return bundle


def measured(model: ZooModel, bundle: Path, found: Sequence[Ceiling]) -> Speeds:
    """Measure all precisions of one bundle on all backends, and add the figures of the model's card."""
    rows = [
        row
        for row in bench_configs([str(bundle)], precisions=("fp32", "bf16", "int8"), backends=BACKENDS, device="cpu")
        # ONNX Runtime has no BF16 on a CPU. What OpenVINO cannot run here stays as a row that says so.
        if not (isinstance(row, Missing) and row.backend != "openvino")
    ]
    gflop = flops_of(Bundle.open(bundle), np.array([95])) / 1e9
    length = min(LIST, max(MIN_PAIRS, round(GFLOP / gflop)))
    plan = Plan(repeats=REPEATS, lists=1, list_length=length, counts=(), starts=0, memory=False, alone=False, judged=0)
    speeds = bench(rows, Texts.typical(), plan, known=found, stretch_s=STRETCH_S)
    card = {
        "ndcg10": model.published_ndcg10,
        "mrr10": model.published_mrr10,
        "docs_per_s_v100": float(model.published_docs_per_s),
    }
    return replace(speeds, rows=[replace(row, published=card) for row in speeds.rows])


def joined(whole: Speeds, more: Speeds) -> Speeds:
    """Append the rows of `more`. Shares refer to the higher ceilings of both results, and the larger noise is kept."""
    noise = max(whole.noise, more.noise)
    rows, found = with_shares([*whole.rows, *more.rows], higher(whole.ceilings, more.ceilings), noise=noise)
    return replace(whole, rows=rows, ceilings=found, noise=noise)


def table(speeds: Speeds, price: float | None) -> list[str]:
    """Return the lines of the table. Costs are computed from the speeds and the price per hour."""
    lines = [
        f"{speeds.machine['processor']}, {speeds.machine['usable_cpus']} processors; noise {speeds.noise:.0%}",
        f"{'':<58}{'pairs/s':>9}{'of ceiling':>12}{'V100, by its card':>19}"
        + ("" if price is None else f"{'a million pairs':>17}"),
    ]
    return lines + [line(row, speeds.noise, price) for row in speeds.rows]


def line(row: Speed, noise: float, price: float | None) -> str:
    """Return one line of the table. A million pairs cost the price of the hours that they take."""
    if row.pairs_per_s is None:
        return f"{row.label:<58}failed: {row.failed}"
    width = width_of(row.pairs_per_s, noise)
    share = "-" if row.of_ceiling is None else f"{row.of_ceiling:.0%}"
    card = "-" if row.published is None else f"{row.published['docs_per_s_v100']:,.0f}"
    cost = "" if price is None else f"{rounded(1e6 / row.pairs_per_s.median / 3600 * price, width):>17}"
    return f"{row.label:<58}{rounded(row.pairs_per_s.median, width):>9}{share:>12}{card:>19}{cost}"


if __name__ == "__main__":
    main()
