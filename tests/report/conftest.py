"""Results with made-up figures, as commands would write them."""

import dataclasses
import hashlib
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")
pytest.importorskip("pydantic")

from crossrt.calibration.paired_difference import PairedDifference
from crossrt.evaluation.result import Evaluation, Ranking
from crossrt.speed.result.speeds import Ceiling, Curve, Difference, Latency, Speed, Speeds, Spread, Workload

REPOSITORY = Path(__file__).resolve().parents[2]
MACHINE = {"processor": "Some Processor", "instructions": ["avx2"], "usable_cpus": 2, "memory_gb": 25}
VERSIONS = {"python": "3.11.7", "crossrt": "0.1.0", "onnxruntime": "1.32.0"}
MODELS: dict[str, tuple[float, float, float]] = {
    "cross-encoder/ms-marco-TinyBERT-L-2-v2": (69.84, 32.56, 9000),
    "cross-encoder/ms-marco-MiniLM-L-2-v2": (71.01, 34.85, 4100),
    "cross-encoder/ms-marco-MiniLM-L-4-v2": (73.04, 37.70, 2500),
    "cross-encoder/ms-marco-MiniLM-L-6-v2": (74.30, 39.01, 1800),
    "cross-encoder/ms-marco-MiniLM-L-12-v2": (74.31, 39.02, 960),
    "cross-encoder/ms-marco-TinyBERT-L-2": (67.43, 30.15, 9000),
    "cross-encoder/ms-marco-TinyBERT-L-4": (68.09, 34.50, 2900),
    "cross-encoder/ms-marco-TinyBERT-L-6": (69.57, 36.13, 680),
    "cross-encoder/ms-marco-electra-base": (71.99, 36.41, 340),
    "nboost/pt-tinybert-msmarco": (63.63, 28.80, 2900),
    "nboost/pt-bert-base-uncased-msmarco": (70.94, 34.75, 340),
    "nboost/pt-bert-large-msmarco": (73.36, 36.48, 100),
    "Capreolus/electra-base-msmarco": (71.23, 36.89, 340),
    "amberoad/bert-multilingual-passage-reranking-msmarco": (68.40, 35.54, 330),
    "sebastian-hofstaetter/distilbert-cat-margin_mse-T2-msmarco": (72.82, 37.88, 720),
}


def sha256_of_name(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def spread(median: float) -> Spread:
    return Spread(median=median, p5=0.93 * median, p95=1.08 * median, repeats=9)


def speed_of(model: str, precision: str, rng: random.Random, **fields: Any) -> Speed:
    ndcg10, mrr10, docs = MODELS[model]
    rate = docs / 20 * {"fp32": 1.0, "bf16": 1.7, "int8": 2.4}[precision] * rng.uniform(0.9, 1.1)
    reference = [rng.uniform(-11, 9) for _ in range(200)]
    width = {"fp32": 0.0, "bf16": 0.02, "int8": 0.06}[precision]
    logits = [value + rng.gauss(0, width) for value in reference]
    differences = [abs(logit - value) for value, logit in zip(reference, logits, strict=True)]
    made: dict[str, Any] = {
        "label": f"{model}.{precision}",
        "model": model,
        "bundle_sha256": sha256_of_name(model),
        "precision": precision,
        "backend": "openvino",
        "device": "cpu",
        "threads": 2,
        "runs_on": "openvino 2026.4.1, cpu",
        "pairs_per_s": spread(rate),
        "tokens_per_s": spread(rate * 80),
        "model_pairs_per_s": spread(rate * 1.05),
        "ratio": spread(rate / 400),
        "padding": 0.018,
        "gflop_per_pair": 1.7,
        "of_ceiling": 0.7,
        "latencies": [
            Latency(
                passages=passages,
                p50_ms=1e3 * passages / rate,
                p95_ms=1.2e3 * passages / rate,
                p99_ms=1.5e3 * passages / rate,
                requests=60,
            )
            for passages in (1, 10, 100)
        ],
        "start_s": spread(0.44),
        "memory_mb": 310.0,
        "difference": Difference(
            max_abs=max(differences),
            mean_abs=sum(differences) / len(differences),
            top10_overlap=1.0 if precision == "fp32" else 0.98,
            reference=reference,
            logits=logits,
        ),
        "published": {"ndcg10": ndcg10, "mrr10": mrr10, "docs_per_s_v100": docs},
    }
    return Speed(**made | fields)


def failed_speed(model: str, precision: str, reason: str) -> Speed:
    return Speed(
        label=f"{model}.{precision}",
        model=model,
        bundle_sha256=sha256_of_name(model),
        precision=precision,
        backend="openvino",
        device="cpu",
        threads=2,
        runs_on="",
        failed=reason,
    )


@pytest.fixture(scope="session")
def make_speeds() -> Callable[..., Speeds]:
    """Return a function that makes Speeds of the first N models in three precisions; fields by keyword."""

    def make(models: int = 2, **fields: Any) -> Speeds:
        rng = random.Random(0)
        made: dict[str, Any] = {
            "machine": MACHINE,
            "versions": VERSIONS,
            "commit": "0123456789ab",
            "workload": Workload(
                source="lists.tsv",
                sha256=sha256_of_name("lists"),
                pairs=4300,
                mean_tokens=81.4,
                p50_tokens=74,
                p99_tokens=190,
                histogram={str(start): max(1, 900 - 6 * abs(start - 74)) for start in range(16, 220, 16)},
            ),
            "ceilings": [
                Ceiling(
                    quantity="fp32", unit="GFLOP/s", threads=2, rate=192.3, by="openvino", rates={"openvino": 192.3}
                ),
                Ceiling(quantity="memory", unit="GB/s", threads=2, rate=21.0, by="numpy", rates={"numpy": 21.0}),
            ],
            "noise": 0.034,
            "rows": [
                speed_of(model, precision, rng)
                for model in list(MODELS)[:models]
                for precision in ("fp32", "bf16", "int8")
            ],
            "curves": [
                Curve(
                    label="TinyBERT-L-2-v2 fp32",
                    axis="tokens",
                    at=[64, 256, 1024, 4096],
                    pairs_per_s=[spread(value) for value in (210, 330, 420, 450)],
                    fit="0.2 ms + 2.1 ms per 1,000 tokens",
                    fitted=[215, 325, 425, 445],
                ),
                Curve(
                    label="TinyBERT-L-2-v2 fp32",
                    axis="threads",
                    at=[1, 2],
                    pairs_per_s=[spread(value) for value in (250, 450)],
                    fit="Amdahl, 0.9 of the work side by side",
                    fitted=[250, 450],
                ),
            ],
        }
        return Speeds(**made | fields)

    return make


@pytest.fixture(scope="session")
def make_evaluation() -> Callable[..., Evaluation]:
    """Return a function that makes an Evaluation of the first N models in three precisions; fields by keyword."""

    def make(models: int = 2, **fields: Any) -> Evaluation:
        rng = random.Random(1)
        measures = ["nDCG@10", "RR@10"]
        first = next(iter(MODELS))
        baseline = MODELS[first][0] / 100

        def ranking(label: str, mean: float, **more: Any) -> Ranking:
            changes = {
                name: PairedDifference(
                    reference=baseline, candidate=mean, low=mean - baseline - 0.004, high=mean - baseline + 0.005
                )
                for name in measures
            }
            return Ranking(**{"label": label, "means": dict.fromkeys(measures, mean), "changes": changes} | more)

        rows: Sequence[Ranking] = [
            ranking("candidates", 0.5058),
            *(
                ranking(
                    f"{model}.{precision}",
                    MODELS[model][0] / 100 + (0 if precision == "fp32" else rng.uniform(-0.004, 0.002)),
                    model=model,
                    bundle_sha256=sha256_of_name(model),
                    precision=precision,
                    runs_on="openvino 2026.4.1, cpu",
                    max_length=512,
                    **({"changes": None} if (model, precision) == (first, "fp32") else {}),
                )
                for model in list(MODELS)[:models]
                for precision in ("fp32", "bf16", "int8")
            ),
        ]
        made: dict[str, Any] = {
            "machine": MACHINE,
            "versions": VERSIONS,
            "commit": "0123456789ab+",
            "collection": "lists/bm25.run.trec",
            "description": ["lists/bm25.run.trec: 43 queries with 4,300 candidates"],
            "sources": {},
            "queries": 43,
            "unanswered": 0,
            "pairs": 4300,
            "depth": None,
            "limit": None,
            "measures": measures,
            "baseline": f"{first}.fp32",
            "rankings": rows,
        }
        return Evaluation(**made | fields)

    return make


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a result as a file of that name and returns its path."""

    def written(result: Any, name: str) -> Path:
        path = tmp_path / name
        path.write_text(json.dumps(dataclasses.asdict(result)), encoding="utf-8")
        return path

    return written
