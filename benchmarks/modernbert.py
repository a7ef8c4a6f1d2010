#!/usr/bin/env python3
"""Does crossrt speed up ModernBERT and XLM-R over PyTorch as much as a BERT of the same width?

    benchmarks/modernbert.py --out benchmarks/results/modernbert.json

Scores random pairs with seeded random weights at the sizes of BERT-base (12 layers), XLM-R-base (12 layers, 250,002 tokens, a
Unigram tokenizer like SentencePiece's) and ModernBERT-base (22 layers, each with half of the multiplications).

The native kernels run in every precision that the processor has, OpenVINO and ONNX Runtime in FP32. PyTorch runs transformers in
batches of 32 pairs sorted by length, as sentence-transformers does. All go from raw text to scores, with one thread for each
processor, one after the other in each round. Speed does not depend on the weights. The scores mean nothing, and INT8 is not
judged.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import transformers
from result import write_result
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from versus_pytorch import pytorch_scores

from crossrt import CrossEncoder
from crossrt.engine.backends.registry import installed_backends
from crossrt.engine.bundle.manifest import ONNX_FILES, TOKENIZER, BundleModel
from crossrt.engine.precision import Precision
from crossrt.engine.text.pair_tokenizer import without_truncation_and_padding
from crossrt.export.bundle.manifest import manifest_of, write_manifest
from crossrt.export.checkpoint.checkpoint import Checkpoint
from crossrt.export.checkpoint.pretrained import tokenizer_of
from crossrt.export.checkpoint.reference import Reference
from crossrt.export.graph.writer import onnx_from_checkpoint
from crossrt.export.precision.native_weights import native_from_checkpoint

BERT_SPECIAL = {"unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]"}
XLMR_SPECIAL = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
WORDS = 30_000
LONGEST = 1024
"""Tokens of the longest pair."""
SIZES: dict[str, Any] = {
    "hidden_size": 768,
    "num_attention_heads": 12,
    "num_labels": 1,
    "max_position_embeddings": LONGEST + 2,  # an XLM-R's positions begin at 2
}
MODELS = {
    "BERT-base": (
        transformers.BertConfig,
        transformers.BertForSequenceClassification,
        {"num_hidden_layers": 12, "intermediate_size": 3072},
    ),
    "XLM-R-base": (
        transformers.XLMRobertaConfig,
        transformers.XLMRobertaForSequenceClassification,
        {"num_hidden_layers": 12, "intermediate_size": 3072, "vocab_size": 250_002, "type_vocab_size": 1},
    ),
    "ModernBERT-base": (
        transformers.ModernBertConfig,
        transformers.ModernBertForSequenceClassification,
        {"num_hidden_layers": 22, "intermediate_size": 1152, "local_attention": 128},
    ),
}
REQUESTS = {"95 tokens": (32, 95, 30), "400 tokens": (8, 400, 60), "1,000 tokens": (2, 1000, 10)}
"""Number of pairs in a request, and the mean and standard deviation of their lengths in tokens."""


def word_tokenizer() -> tuple[Tokenizer, dict[str, str]]:
    """Return a tokenizer with one token per word and BERT's special tokens, and those special tokens."""
    ids = {
        token: number for number, token in enumerate((*BERT_SPECIAL.values(), *(f"w{word}" for word in range(WORDS))))
    }
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(token, ids[token]) for token in ("[CLS]", "[SEP]")],
    )
    return tokenizer, BERT_SPECIAL


def unigram_tokenizer() -> tuple[Tokenizer, dict[str, str]]:
    """Return a Unigram tokenizer with a token for each word and digit, and XLM-R's special tokens."""
    special = [token for name, token in XLMR_SPECIAL.items() if name != "mask"]
    words = [f"\u2581w{word}" for word in range(WORDS)]
    pieces = [(token, 0.0) for token in special] + [(word, -10.0) for word in words]
    pieces += [(piece, -14.0) for piece in ("\u2581", "w", *"0123456789")]
    tokenizer = Tokenizer(models.Unigram([*pieces, ("<mask>", 0.0)], unk_id=special.index("<unk>")))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", special.index("<s>")), ("</s>", special.index("</s>"))],
    )
    return tokenizer, XLMR_SPECIAL


def write_checkpoint(name: str, path: Path) -> Path:
    """Write a checkpoint with seeded random weights, whose tokenizer has one token per word."""
    path.mkdir(parents=True)
    tokenizer, special = unigram_tokenizer() if name.startswith("XLM-R") else word_tokenizer()
    tokenizer.add_special_tokens(list(special.values()))
    tokenizer.save(str(path / "tokenizer.json"))
    settings: dict[str, Any] = {f"{kind}_token": token for kind, token in special.items()}
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": LONGEST}
    settings["model_input_names"] = ["input_ids", "attention_mask"]
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    configuration, architecture, fields = MODELS[name]
    ids: dict[str, Any] = {f"{kind}_token_id": tokenizer.token_to_id(special[kind]) for kind in ("cls", "sep", "pad")}
    ids |= {"bos_token_id": None, "eos_token_id": None}
    torch.manual_seed(0)
    config = configuration(**{"vocab_size": tokenizer.get_vocab_size(), **ids, **SIZES, **fields})
    architecture(config).save_pretrained(path)
    return path


def write_bundle(checkpoint: Checkpoint, bundle: Path, name: str) -> Path:
    """Write a bundle with FP32's graph and the native weights, without a parity check. INT8 is not calibrated."""
    bundle.mkdir()
    tokenizer = without_truncation_and_padding(tokenizer_of(checkpoint).backend_tokenizer.to_str())
    (bundle / TOKENIZER).write_text(tokenizer, encoding="utf-8")
    onnx_from_checkpoint(checkpoint, bundle / ONNX_FILES["fp32"])
    found = {}
    for precision in (Precision.FP32, Precision.BF16, Precision.INT8):
        file = f"model.{precision.value}.native"
        native_from_checkpoint(checkpoint, bundle / file, precision)
        found[precision.value] = BundleModel(file=ONNX_FILES["fp32"], native_file=file)
    write_manifest(bundle, replace(manifest_of(checkpoint, {"id": name, "exporter": "crossrt"}), models=found))
    return bundle


def random_pairs(count: int, mean: int, deviation: int) -> list[tuple[str, str]]:
    """Return pairs of a query of seven words and a passage. The pairs' lengths in tokens have the given mean and deviation."""
    rng = np.random.default_rng(mean)
    lengths = np.clip(np.rint(rng.normal(mean, deviation, count)).astype(int), 20, LONGEST)

    def words(number: int) -> str:
        return " ".join(f"w{number}" for number in rng.integers(0, WORDS, number))

    return [(words(7), words(length - 10)) for length in lengths]


def systems(name: str, folder: Path) -> dict[str, Callable[[Sequence[tuple[str, str]]], Any]]:
    """Return functions that score pairs, by name."""
    checkpoint = Checkpoint.read(write_checkpoint(name, folder / "checkpoint"))
    bundle = write_bundle(checkpoint, folder / "bundle", name)
    reference = Reference(checkpoint)
    found: dict[str, Callable[[Sequence[tuple[str, str]]], Any]] = {
        "PyTorch FP32": lambda pairs: pytorch_scores(reference, list(pairs), checkpoint.max_length)
    }
    for backend, precision in (
        *(("native", each) for each in (Precision.FP32, Precision.BF16, Precision.INT8)),
        ("openvino", Precision.FP32),
        ("onnxruntime", Precision.FP32),
    ):
        if backend in installed_backends(precision):
            model = CrossEncoder(bundle, backend=backend, precision=precision, device="cpu", allow_failed=True)
            torch.set_num_threads(model.threads)
            found[f"{backend} {precision.value.upper()}"] = model.logits
    return found


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    arguments = parser.parse_args()
    rows = []
    for name in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            scorers = systems(name, Path(folder))
            for request, shape in REQUESTS.items():
                rows += measured(name, request, scorers, random_pairs(*shape), arguments.rounds)
    if arguments.out:
        write_result(arguments.out, {"threads": torch.get_num_threads(), "rounds": arguments.rounds, "rows": rows})


def measured(
    name: str,
    request: str,
    scorers: dict[str, Callable[[Sequence[tuple[str, str]]], Any]],
    pairs: list[tuple[str, str]],
    rounds: int,
) -> list[dict[str, Any]]:
    """Score the pairs with each scorer in turn, after one round that is not counted. Return a row for each scorer."""
    seconds: dict[str, list[float]] = {scorer: [] for scorer in scorers}
    for turn in range(rounds + 1):
        for scorer, score in scorers.items():
            begin = time.perf_counter()
            score(pairs)
            if turn:
                seconds[scorer].append(time.perf_counter() - begin)
    rows = []
    for scorer, taken in seconds.items():
        ratios = [theirs / ours for theirs, ours in zip(seconds["PyTorch FP32"], taken, strict=True)]
        rows.append(
            {
                "model": name,
                "request": request,
                "scorer": scorer,
                "pairs_per_s": round(len(pairs) / median(taken), 2),
                "times_pytorch": round(median(ratios), 2),
                "times_pytorch_range": [round(min(ratios), 2), round(max(ratios), 2)],
            }
        )
        low, high = rows[-1]["times_pytorch_range"]
        print(
            f"{name:<16} {request:<13} {scorer:<17} {rows[-1]['pairs_per_s']:>8.1f} pairs/s  "
            f"{rows[-1]['times_pytorch']:.2f} times PyTorch ({low:.2f} to {high:.2f})",
            flush=True,
        )
    return rows


if __name__ == "__main__":
    main()
