#!/usr/bin/env python3
"""How much ranking quality does each INT8 quantization cost, and how much speed does it gain?

    benchmarks/int8.py CHECKPOINT --queries Q.tsv --passages P.tsv --run BM25.trec --qrels QRELS \\
        --nncf-python .venv-nncf/bin/python --out benchmarks/results/int8.json

Compares crossrt's recipes, range methods and smoothings with onnxruntime's static and dynamic quantization and with NNCF's, on
crossrt's own FP32 graph. Half of the queries calibrate and the other half judges; then the halves are swapped. In crossrt's
default, half of the calibrating queries decide what is restored to floating point. All models run in ONNX Runtime with exact
sums. NNCF needs its own environment: `pip install nncf onnx onnxruntime`.
"""

import argparse
import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from result import write_result

from crossrt.calibration.calibration_set import CalibrationSet
from crossrt.calibration.judge import Judge
from crossrt.calibration.judging_set import JudgingSet
from crossrt.calibration.recipe import Recipe
from crossrt.engine.batching.batch import Batch
from crossrt.engine.files.trec import read_collection, read_qrels
from crossrt.engine.precision import Precision
from crossrt.engine.text.pair_tokenizer import PairTokenizer
from crossrt.export.checkpoint.checkpoint import Checkpoint
from crossrt.export.graph.numerics import Numerics
from crossrt.export.graph.session import batches_of, feeds_of, logits_of, session_of
from crossrt.export.graph.writer import graph_of, save
from crossrt.export.precision.int8 import quantizations, quantize_int8
from crossrt.export.precision.multiply_adds import counted_multiply_adds
from crossrt.export.precision.observation import observed
from crossrt.export.precision.quantization_points import quantization_points
from crossrt.export.precision.tolerance import TOLERANCE

PAIRS_A_QUERY = 50
ROUNDS = 7
RECIPES = {
    "projections, minmax": Recipe(method="minmax"),
    "projections, percentile": Recipe(method="percentile"),
    "projections, entropy": Recipe(method="entropy"),
    "projections, mse": Recipe(method="mse"),
    "projections, minmax, smoothing 0.5": Recipe(method="minmax", smoothing=0.5),
    "projections, minmax, smoothing 0.8": Recipe(method="minmax", smoothing=0.8),
    "projections, mse, smoothing 0.8": Recipe(method="mse", smoothing=0.8),
    "projections, token, smoothing 0": Recipe(smoothing=0.0),
    "projections, token": Recipe(),
    "ffn, token": Recipe(parts="ffn"),
    "full, token": Recipe(parts="full"),
}


class Lists:
    """The collection, and its FP32 logits."""

    def __init__(self, arguments: argparse.Namespace, checkpoint: Checkpoint) -> None:
        self.queries, self.passages, self.run = read_collection(arguments.queries, arguments.passages, arguments.run)
        self.qrels = read_qrels(arguments.qrels)
        self.checkpoint = checkpoint
        self.encoder = PairTokenizer.from_file(
            arguments.checkpoint / "tokenizer.json",
            max_length=checkpoint.max_length,
            truncation_side=checkpoint.truncation_side,
        )
        self.full = graph_of(checkpoint)

    def judge(self, queries: Sequence[str]) -> Judge:
        candidates = {query: tuple(self.run[query])[:100] for query in queries}
        # Not JudgingSet.of: a quarter of these 43 queries is fewer than it takes.
        judging = JudgingSet(
            queries=self.queries,
            passages=self.passages,
            candidates=candidates,
            qrels=self.qrels,
            source=f"{len(queries)} queries",
            sha256="",
        )
        return Judge(judging=judging, expected=self.scores(self.full, judging))

    def batches(self, pairs: Sequence[tuple[str, str]]) -> list[Batch]:
        return list(batches_of(self.encoder, pairs, pad_id=self.checkpoint.pad_token_id))

    def scores(self, model: onnx.ModelProto, judging: JudgingSet) -> Any:
        batches = self.batches(judging.pairs)
        logits = logits_of(model, batches)
        ordered = np.empty_like(logits)
        ordered[np.concatenate([batch.rows for batch in batches])] = logits
        return self.checkpoint.relevance(ordered)

    def pairs(self, queries: Sequence[str], count: int) -> list[tuple[str, str]]:
        rng = random.Random(0)
        return [
            (self.queries[query], self.passages[passage])
            for query in queries
            for passage in rng.sample(list(self.run[query]), count)
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    for name in ("queries", "passages", "run", "qrels"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--nncf-python", type=Path, help="Python of an environment with nncf and onnx")
    parser.add_argument("--only", action="append", help="part of a row's name; may be repeated")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    checkpoint = Checkpoint.read(arguments.checkpoint)
    lists = Lists(arguments, checkpoint)
    names = sorted(lists.run)
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    rows: dict[str, dict[str, Any]] = {}
    timed: dict[str, onnx.ModelProto] = {"FP32": lists.full}
    for number, (calibrating, judging) in enumerate((halves, halves[::-1])):
        judge = lists.judge(judging)
        for name, make in ways(lists, calibrating, arguments.nncf_python).items():
            if arguments.only and not any(part in name for part in arguments.only):
                continue
            start = time.perf_counter()
            model = make()
            seconds = time.perf_counter() - start
            found = judge.report(lists.scores(model, judge.judging))
            row = rows.setdefault(name, {"recipe": name, "halves": []})
            row["halves"].append(
                {
                    "queries": found.queries,
                    "top10_overlap": round(found.top10_overlap, 4),
                    "kendall_tau": round(found.kendall_tau, 4),
                    "mean_abs_diff": round(found.mean_abs_diff, 4),
                    "ndcg10_fp32": round(found.changes["nDCG@10"].reference, 4),
                    "ndcg10_difference": round(found.changes["nDCG@10"].difference, 4),
                    "eight_bit_share": round(
                        counted_multiply_adds(model, lists.batches(judge.judging.pairs[:16])[0]).share, 3
                    ),
                    "megabytes": round(model.ByteSize() / 1e6, 1),
                    "seconds_to_make": round(seconds, 1),
                }
            )
            if number == 0:
                timed[name] = model
            print(name, row["halves"][-1], flush=True)
    for name, ratios in speeds(timed, lists.batches(lists.pairs(names[:10], 20))).items():
        if name in rows:
            rows[name]["speed_of_fp32"] = ratios
            print(name, ratios)
    if arguments.out:
        write_result(arguments.out, {"pairs_a_query": PAIRS_A_QUERY, "candidates": 100, "rows": list(rows.values())})


def ways(lists: Lists, queries: Sequence[str], nncf: Path | None) -> Mapping[str, Callable[[], onnx.ModelProto]]:
    """Return the functions that make INT8 models from these queries' pairs, by name."""
    pairs = lists.pairs(queries, PAIRS_A_QUERY)
    found: dict[str, Callable[[], onnx.ModelProto]] = {
        name: lambda recipe=recipe: by_recipe(lists, pairs, recipe) for name, recipe in RECIPES.items()
    }
    found["projections, token, worst put back"] = lambda: by_default(lists, queries)
    found["onnxruntime, static, min-max"] = lambda: by_onnxruntime(lists, pairs)
    found["onnxruntime, dynamic"] = lambda: by_onnxruntime(lists, None)
    if nncf is not None:
        found["NNCF, performance, head left"] = lambda: by_nncf(lists, pairs[:300], nncf)
    return found


def by_recipe(lists: Lists, pairs: Sequence[tuple[str, str]], recipe: Recipe) -> onnx.ModelProto:
    seen = observed(lists.checkpoint, quantization_points(lists.checkpoint, recipe), lists.encoder.encode(pairs))
    return graph_of(lists.checkpoint, Numerics(quantized=quantizations(lists.checkpoint, seen, recipe)))


def by_default(lists: Lists, queries: Sequence[str]) -> onnx.ModelProto:
    """Search as the export does, but only in ONNX Runtime, with half of the queries for ranges and half for judging."""
    middle = (len(queries) + 1) // 2
    calibration = CalibrationSet.sample(lists.pairs(queries[:middle], 100), source="half of the half")
    judge = lists.judge(queries[middle:])
    made = quantize_int8(
        lists.checkpoint,
        lists.encoder,
        calibration,
        judge.judging,
        lambda model: {"onnxruntime": judge.report(lists.scores(model, judge.judging))},
        Recipe(),
        TOLERANCE[Precision.INT8],
    )
    print("back in FP32:", made.restored)
    return graph_of(lists.checkpoint, made.numerics)


class Reader(CalibrationDataReader):
    """Batches for onnxruntime.quantization."""

    def __init__(self, batches: Sequence[Batch], names: Sequence[str]) -> None:
        self.feeds = iter([{name: getattr(batch, name) for name in names} for batch in batches])

    def get_next(self) -> Any:
        return next(self.feeds, None)


def by_onnxruntime(lists: Lists, pairs: Sequence[tuple[str, str]] | None) -> onnx.ModelProto:
    inputs = [value.name for value in lists.full.graph.input]
    head = [node.name for node in lists.full.graph.node if node.name.startswith("head.") or node.name == "logits"]
    with tempfile.TemporaryDirectory() as folder:
        full, out = Path(folder) / "full.onnx", Path(folder) / "out.onnx"
        save(lists.full, full)
        if pairs is None:
            quantize_dynamic(full, out, per_channel=True, weight_type=QuantType.QInt8)
        else:
            quantize_static(
                full,
                out,
                Reader(lists.batches(pairs), inputs),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["MatMul"],
                nodes_to_exclude=head,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                extra_options={"MatMulConstBOnly": True},
            )
        return onnx.load(out)


def by_nncf(lists: Lists, pairs: Sequence[tuple[str, str]], python: Path) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        full, feeds, out = (Path(folder) / name for name in ("full.onnx", "feeds.npz", "out.onnx"))
        save(lists.full, full)
        inputs = [value.name for value in lists.full.graph.input]
        np.savez(
            feeds,
            **{
                f"{number}/{name}": getattr(batch, name)
                for number, batch in enumerate(lists.batches(pairs))
                for name in inputs
            },
        )
        script = Path(__file__).parent / "peers" / "nncf_int8.py"
        subprocess.run([python, script, full, feeds, out], check=True, capture_output=True)
        return onnx.load(out)


def speeds(models: Mapping[str, onnx.ModelProto], batches: Sequence[Batch]) -> dict[str, Any]:
    """Run the models in turn on the same batches. Return each one's speed as a multiple of FP32's: median, least, greatest."""
    sessions = {name: session_of(model) for name, model in models.items()}
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for number in range(ROUNDS + 1):
        for name, session in sessions.items():
            start = time.perf_counter()
            for batch in batches:
                session.run(["logits"], feeds_of(session, batch))
            if number:
                times[name].append(time.perf_counter() - start)
    full = np.array(times["FP32"])
    return {
        name: {
            "median": round(float(np.median(ratios)), 2),
            "range": [round(float(ratios.min()), 2), round(float(ratios.max()), 2)],
        }
        for name, ratios in ((name, full / np.array(taken)) for name, taken in times.items())
    }


if __name__ == "__main__":
    main()
