#!/usr/bin/env python3
"""Which conversion to FP16 keeps the logits, and which still works when activations exceed FP16's range?

    benchmarks/half_precision.py CHECKPOINT --pairs PAIRS.tsv --out benchmarks/results/half_precision.json

Compares crossrt's typed graph, onnxruntime's and onnxconverter-common's converters on crossrt's FP32 graph, and PyTorch in half
precision. The ONNX graphs are rounded to FP16 after every operator. Each runs on the checkpoint as it is, and with the first
layer's feed-forward output scaled by a thousand.
"""

import argparse
import importlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import transformers
from result import write_result

from crossrt.engine.batching.batch import Batch
from crossrt.engine.files.trec import read_pairs
from crossrt.engine.precision import Precision
from crossrt.engine.text.pair_tokenizer import PairTokenizer
from crossrt.export.checkpoint.checkpoint import Checkpoint
from crossrt.export.graph.session import batches_of, logits_of
from crossrt.export.graph.writer import graph_of
from crossrt.export.parity.pairs import builtin_pairs
from crossrt.export.precision.fp16 import choose_fp16
from crossrt.export.precision.fp16_emulation import rounded_after_operators
from crossrt.export.precision.tolerance import TOLERANCE

CONVERTERS = ("onnxruntime.transformers.float16", "onnxconverter_common.float16")


def main() -> None:
    """Convert with each converter, compare on the same batches, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="a BERT cross-encoder")
    parser.add_argument("--pairs", type=Path, help="`query <tab> passage` lines")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    checkpoint = Checkpoint.read(arguments.checkpoint)
    encoder = PairTokenizer.from_file(
        arguments.checkpoint / "tokenizer.json",
        max_length=checkpoint.max_length,
        truncation_side=checkpoint.truncation_side,
    )
    pairs = [*builtin_pairs(checkpoint.max_length), *(read_pairs(arguments.pairs) if arguments.pairs else ())]
    batches = list(batches_of(encoder, pairs, pad_id=checkpoint.pad_token_id))
    rows: list[dict[str, Any]] = []
    folder = Path(tempfile.mkdtemp())
    for case, factor in (("as trained", 1.0), ("activations x 1000", 1000.0)):
        wild = scaled(arguments.checkpoint, factor, folder / case)
        full = graph_of(wild)
        expected = logits_of(full, batches)
        half = choose_fp16(wild, batches, max_abs=TOLERANCE[Precision.FP16].max_abs)
        ours = graph_of(wild, half.numerics)
        rows.append(row(case, "crossrt", logits_of(rounded_after_operators(ours), batches), expected, ours))
        for module in CONVERTERS:
            try:
                convert = importlib.import_module(module).convert_float_to_float16
                theirs = convert(onnx.ModelProto.FromString(full.SerializeToString()), keep_io_types=True)
                rows.append(row(case, module, logits_of(rounded_after_operators(theirs), batches), expected, theirs))
            except Exception as error:  # a converter that fails stays in the table
                rows.append({"case": case, "converter": module, "failed": f"{type(error).__name__}: {error}"[:300]})
        rows.append(row(case, "PyTorch half", torch_half(wild.path, batches), expected, None))
    for entry in rows:
        print(entry)
    if arguments.out:
        write_result(arguments.out, {"pairs": len(pairs), "rows": rows})


def scaled(path: Path, factor: float, out: Path) -> Checkpoint:
    """Write a copy of the checkpoint whose first layer's feed-forward output is `factor` times as large."""
    shutil.copytree(path, out)
    model = transformers.BertForSequenceClassification.from_pretrained(out)
    with torch.no_grad():
        for parameter in model.bert.encoder.layer[0].output.dense.parameters():
            parameter.mul_(factor)
    model.save_pretrained(out)
    return Checkpoint.read(out)


def row(case: str, converter: str, logits: Any, expected: Any, model: onnx.ModelProto | None) -> dict[str, Any]:
    """Return the table's entry for one conversion."""
    finite = np.isfinite(logits).all(axis=1)
    differences = np.abs(logits - expected)[finite]
    return {
        "case": case,
        "converter": converter,
        "not_finite": int((~finite).sum()),
        "max_abs_diff": float(differences.max()) if finite.any() else None,
        "mean_abs_diff": float(differences.mean()) if finite.any() else None,
        "mb": None if model is None else round(model.ByteSize() / 1e6, 2),
        "nodes": None if model is None else len(model.graph.node),
    }


def torch_half(checkpoint: Path, batches: list[Batch]) -> Any:
    """Return PyTorch's logits with weights and arithmetic in FP16."""
    model = transformers.BertForSequenceClassification.from_pretrained(
        checkpoint, dtype=torch.float16, attn_implementation="eager"
    ).eval()
    with torch.inference_mode():
        found = [
            model(
                input_ids=torch.from_numpy(batch.input_ids),
                attention_mask=torch.from_numpy(batch.attention_mask),
                token_type_ids=torch.from_numpy(batch.token_type_ids),
            ).logits.float()
            for batch in batches
        ]
    return torch.cat(found).numpy()


if __name__ == "__main__":
    main()
