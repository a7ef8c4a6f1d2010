#!/usr/bin/env python3
"""Runs a system in its own process and environment, and scores requests from standard input.

    peer.py SYSTEM CHECKPOINT BUNDLE THREADS CALIBRATION.tsv

Reads one JSON request per line, `{"query": ..., "passages": [...]}`, and answers with a line `{"scores": [...], "seconds": ...}`.
The scores are raw logits in the order of the passages, or NaN where there is none. The seconds cover only the way from texts to
scores. The first line of the output gives the versions of the installed packages, or the reason why the system cannot be run.
"""

import importlib.metadata
import json
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Score = Callable[[str, Sequence[str]], Any]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What every system gets: the `checkpoint`, crossrt's `bundle` of it, a file of real pairs for calibration, the threads."""

    checkpoint: Path
    bundle: Path
    threads: int
    calibration: Path


def crossrt(subject: Subject, **options: Any) -> Score:
    from crossrt import CrossEncoder

    opened = CrossEncoder(subject.bundle, threads=subject.threads, max_length=512, **options)
    return lambda query, passages: opened.logits([(query, passage) for passage in passages])[:, -1]


def crossrt_exact(subject: Subject, top_k: int = 10) -> Score:
    """Score the best `top_k` passages by INT8 and FP32. The others get NaN."""
    from crossrt import CrossEncoder

    opened = CrossEncoder(subject.bundle, threads=subject.threads, max_length=512, precision="int8", backend="native")

    def score(query: str, passages: Sequence[str]) -> list[float]:
        scores = [math.nan] * len(passages)
        for each in opened.rank(query, passages, top_k=top_k, exact=True, activation_fn="identity"):
            scores[each["corpus_id"]] = each["score"]
        return scores

    return score


def torch_model(subject: Subject, *, dtype: str = "float32", compiled: bool = False) -> Score:
    import torch
    from sentence_transformers import CrossEncoder

    torch.set_num_threads(subject.threads)
    opened = CrossEncoder(
        str(subject.checkpoint), device="cpu", max_length=512, model_kwargs={"dtype": getattr(torch, dtype)}
    )
    if compiled:
        opened.model.forward = torch.compile(opened.model.forward, dynamic=True)
    return _sentence_transformers(opened)


def sentence_transformers(subject: Subject, *, backend: str, prepare: str = "") -> Score:
    """Run ONNX Runtime or OpenVINO through sentence-transformers, on a copy of the model, which it may change."""
    import torch
    from sentence_transformers import CrossEncoder

    torch.set_num_threads(subject.threads)
    folder = tempfile.mkdtemp(prefix="peer-")
    copy = shutil.copytree(subject.checkpoint, Path(folder) / "model")
    kwargs: dict[str, Any] = {}
    if backend == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = subject.threads
        kwargs = {"provider": "CPUExecutionProvider", "session_options": options}
    else:
        kwargs = {"ov_config": {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": subject.threads}}

    def opened(**more: Any) -> Any:
        return CrossEncoder(str(copy), device="cpu", max_length=512, backend=backend, model_kwargs={**kwargs, **more})

    if not prepare:
        return _sentence_transformers(opened())
    from sentence_transformers import backend as exporters

    plain = opened()
    plain.save_pretrained(str(copy))
    if backend == "openvino":
        from optimum.intel import OVQuantizationConfig

        pairs = [line.split("\t") for line in subject.calibration.read_text().splitlines()]
        samples = Path(folder) / "samples"  # the exporter requires a named data set
        samples.mkdir()
        (samples / "train.jsonl").write_text("".join(json.dumps({"pair": pair}) + "\n" for pair in pairs))
        exporters.export_static_quantized_openvino_model(
            plain,
            OVQuantizationConfig(num_samples=len(pairs)),
            str(copy),
            dataset_name=str(samples),
            dataset_config_name="default",
            dataset_split="train",
            column_name="pair",
        )
        [made] = [path.name for path in (copy / "openvino").glob("*qint8*.xml")]
    elif prepare.startswith("O"):
        exporters.export_optimized_onnx_model(plain, prepare, str(copy))
        [made] = [path.name for path in (copy / "onnx").glob(f"*{prepare}.onnx")]
    else:
        exporters.export_dynamic_quantized_onnx_model(plain, prepare, str(copy))
        [made] = [path.name for path in (copy / "onnx").glob(f"*{prepare}*.onnx")]
    return _sentence_transformers(opened(file_name=f"{backend}/{made}"))


def _sentence_transformers(model: Any) -> Score:
    import torch

    identity = torch.nn.Identity()

    def score(query: str, passages: Sequence[str]) -> Any:
        return model.predict([(query, passage) for passage in passages], activation_fn=identity, batch_size=32)

    return score


def optimum(subject: Subject) -> Score:
    """Run Optimum's own class with its tokenizer, in sorted batches of 32."""
    import numpy as np
    import onnxruntime
    from optimum.onnxruntime import ORTModelForSequenceClassification
    from transformers import AutoTokenizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = subject.threads
    opened = ORTModelForSequenceClassification.from_pretrained(subject.checkpoint, export=True, session_options=options)
    tokenizer = AutoTokenizer.from_pretrained(subject.checkpoint)

    def score(query: str, passages: Sequence[str]) -> Any:
        order = sorted(range(len(passages)), key=lambda row: -len(passages[row]))
        scores = np.empty(len(passages), dtype=np.float32)
        for start in range(0, len(order), 32):
            rows = order[start : start + 32]
            texts = [passages[row] for row in rows]
            batch = tokenizer(
                [query] * len(rows), texts, padding=True, truncation=True, max_length=512, return_tensors="np"
            )
            scores[rows] = opened(**batch).logits[:, -1]
        return scores

    return score


def fastembed(subject: Subject) -> Score:
    """Run fastembed with our FP32 file, since its own would be downloaded."""
    from fastembed.common.model_description import ModelSource
    from fastembed.rerank.cross_encoder import TextCrossEncoder

    folder = Path(tempfile.mkdtemp(prefix="peer-"))
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (subject.checkpoint / name).is_file():
            shutil.copy(subject.checkpoint / name, folder)
    if not (folder / "special_tokens_map.json").is_file():  # newer checkpoints have none, and fastembed requires it
        (folder / "special_tokens_map.json").write_text("{}")
    shutil.copy(subject.bundle / "onnx/model.onnx", folder / "model.onnx")
    TextCrossEncoder.add_custom_model(model="peer/model", model_file="model.onnx", sources=ModelSource(hf="peer/model"))
    opened = TextCrossEncoder("peer/model", threads=subject.threads, specific_model_path=str(folder))
    return lambda query, passages: list(opened.rerank(query, list(passages), batch_size=32))


def flashrank(subject: Subject) -> Score:
    """Run FlashRank with our FP32 file under the name of one of its models, which it would download otherwise.

    It returns sigmoids, which are turned back into logits.
    """
    import numpy as np
    from flashrank import Ranker, RerankRequest
    from flashrank.Config import model_file_map

    name = "ms-marco-MiniLM-L-12-v2"
    folder = Path(tempfile.mkdtemp(prefix="peer-"))
    shutil.copytree(subject.checkpoint, folder / name)
    shutil.copy(subject.bundle / "onnx/model.onnx", folder / name / model_file_map[name])
    if not (folder / name / "special_tokens_map.json").is_file():
        (folder / name / "special_tokens_map.json").write_text("{}")
    opened = Ranker(model_name=name, cache_dir=str(folder), max_length=512)

    def score(query: str, passages: Sequence[str]) -> Any:
        texts = [{"id": place, "text": passage} for place, passage in enumerate(passages)]
        scores = np.empty(len(passages))
        for result in opened.rerank(RerankRequest(query=query, passages=texts)):
            scores[result["id"]] = result["score"]
        return np.log(scores / (1 - scores))

    return score


NATIVE = ("crossrt FP32", "crossrt BF16", "crossrt INT8")
"""Systems that run on the native kernels."""
EXACT_TOP = "crossrt INT8, exact top 10"
SYSTEMS: dict[str, Callable[[Subject], Score]] = {
    "crossrt FP32": lambda subject: crossrt(subject, backend="native"),
    "crossrt FP32, ONNX Runtime": lambda subject: crossrt(subject, backend="onnxruntime"),
    "crossrt FP32, OpenVINO": lambda subject: crossrt(subject, backend="openvino"),
    "crossrt BF16": lambda subject: crossrt(subject, precision="bf16", backend="native"),
    "crossrt BF16, OpenVINO": lambda subject: crossrt(subject, precision="bf16", backend="openvino"),
    "crossrt INT8, ONNX Runtime": lambda subject: crossrt(subject, precision="int8", backend="onnxruntime"),
    "crossrt INT8, OpenVINO": lambda subject: crossrt(subject, precision="int8", backend="openvino"),
    "crossrt INT8": lambda subject: crossrt(subject, precision="int8", backend="native"),
    EXACT_TOP: crossrt_exact,
    "PyTorch FP32": torch_model,
    "PyTorch BF16": lambda subject: torch_model(subject, dtype="bfloat16"),
    "torch.compile FP32": lambda subject: torch_model(subject, compiled=True),
    "sentence-transformers ONNX": lambda subject: sentence_transformers(subject, backend="onnx"),
    "sentence-transformers ONNX O2": lambda subject: sentence_transformers(subject, backend="onnx", prepare="O2"),
    "sentence-transformers ONNX O3": lambda subject: sentence_transformers(subject, backend="onnx", prepare="O3"),
    "sentence-transformers ONNX qint8 avx2": lambda subject: sentence_transformers(
        subject, backend="onnx", prepare="avx2"
    ),
    "sentence-transformers ONNX qint8 avx512_vnni": lambda subject: sentence_transformers(
        subject, backend="onnx", prepare="avx512_vnni"
    ),
    "sentence-transformers OpenVINO": lambda subject: sentence_transformers(subject, backend="openvino"),
    "sentence-transformers OpenVINO qint8": lambda subject: sentence_transformers(
        subject, backend="openvino", prepare="qint8"
    ),
    "Optimum ONNX Runtime": optimum,
    "fastembed": fastembed,
    "FlashRank": flashrank,
}
DISTRIBUTIONS = (
    "crossrt torch transformers sentence-transformers optimum optimum-onnx optimum-intel onnxruntime openvino nncf "
    "fastembed FlashRank"
).split()


def main() -> None:
    """Answer requests until the input ends."""
    system, checkpoint, bundle, threads, calibration = sys.argv[1:]
    subject = Subject(
        checkpoint=Path(checkpoint), bundle=Path(bundle), threads=int(threads), calibration=Path(calibration)
    )
    answers, sys.stdout = sys.stdout, sys.stderr  # so that output of libraries is not taken for an answer
    versions = {}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    try:
        score = SYSTEMS[system](subject)
        score("warm", ["one", "two"])
    except Exception as error:
        print(json.dumps({"failed": f"{type(error).__name__}: {error}"[:400], "versions": versions}), file=answers)
        return
    print(json.dumps({"versions": versions}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        begin = time.perf_counter()
        scores = score(request["query"], request["passages"])
        seconds = time.perf_counter() - begin
        print(json.dumps({"scores": [float(value) for value in scores], "seconds": seconds}), file=answers, flush=True)


if __name__ == "__main__":
    main()
