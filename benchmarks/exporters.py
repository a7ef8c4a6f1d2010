#!/usr/bin/env python3
"""Which exporter gives the fastest, smallest graph on ONNX Runtime's CPU provider?

    benchmarks/exporters.py CHECKPOINT --out benchmarks/results/exporters.json

Compares crossrt's own graph with PyTorch's TorchScript and dynamo exporters. These export with eager and with sdpa attention, and
with the mask as transformers makes it (2D) or made once outside (4D). All graphs run in turn on the same batch.
"""

import argparse
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
import transformers
from result import write_result

from crossrt.engine.hardware.cpus import usable_cpus
from crossrt.export.checkpoint.checkpoint import Checkpoint
from crossrt.export.graph.writer import onnx_from_checkpoint

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class Logits(torch.nn.Module):
    """A transformers model that takes its inputs by position and returns its logits."""

    def __init__(self, model: Any, *, mask_once: bool) -> None:
        super().__init__()
        self.model, self.mask_once = model, mask_once

    def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
        """Return logits [batch, labels]."""
        mask = attention_mask
        if self.mask_once:
            mask = (1.0 - mask[:, None, None, :].to(torch.float32)) * torch.finfo(torch.float32).min
        return self.model(input_ids=input_ids, attention_mask=mask, token_type_ids=token_type_ids).logits


def traced(checkpoint: Path, path: Path, *, attention: str, mask_once: bool, dynamo: bool) -> None:
    """Export with PyTorch."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation=attention
    ).eval()
    ids = torch.randint(5, 1000, (2, 17))
    inputs = (ids, torch.ones_like(ids), (torch.arange(17) > 8).long().expand(2, 17))
    names: dict[str, Any] = {"input_names": list(INPUTS), "output_names": ["logits"], "dynamo": dynamo}
    axes = {0: "batch", 1: "sequence"}
    if dynamo:
        names |= {"dynamic_shapes": [axes] * 3, "external_data": False, "opset_version": 18, "verbose": False}
    else:
        names |= {"dynamic_axes": {**dict.fromkeys(INPUTS, axes), "logits": {0: "batch"}}, "opset_version": 17}
    torch.onnx.export(Logits(model, mask_once=mask_once), inputs, str(path), **names)


def main() -> None:
    """Export with each exporter, run all graphs in turn, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="a BERT cross-encoder")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=96, help="tokens in a pair")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    variants = {"crossrt": None} | {
        f"{'dynamo' if dynamo else 'torchscript'}, {attention}, {'4D' if mask_once else '2D'} mask": {
            "attention": attention,
            "mask_once": mask_once,
            "dynamo": dynamo,
        }
        for dynamo in (False, True)
        for attention in ("eager", "sdpa")
        for mask_once in (False, True)
    }
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cpus()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    rows: dict[str, dict[str, Any]] = {}
    sessions = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, variant in variants.items():
            path = Path(folder) / f"{len(rows)}.onnx"
            start = time.monotonic()
            try:
                if variant is None:
                    onnx_from_checkpoint(Checkpoint.read(arguments.checkpoint), path)
                else:
                    traced(arguments.checkpoint, path, **variant)
                seconds = time.monotonic() - start
                sessions[name] = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            except Exception as error:
                rows[name] = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
                continue
            operators = Counter(node.op_type for node in onnx.load(path).graph.node)
            rows[name] = {
                "export_s": round(seconds, 1),
                "mb": round(path.stat().st_size / 1e6, 2),
                "nodes": operators.total(),
                "isnan_or_where": operators["IsNaN"] + operators["Where"],
            }
    rng = np.random.default_rng(0)
    ids = rng.integers(5, 1000, (arguments.batch, arguments.length))
    types = np.broadcast_to((np.arange(arguments.length) > 8).astype(np.int64), ids.shape)
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": types}
    times: dict[str, list[float]] = {name: [] for name in sessions}
    logits = {name: session.run(None, feeds)[0] for name, session in sessions.items()}  # warm-up, and for max |diff|
    for _ in range(arguments.repeats):
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run(None, feeds)
            times[name].append(time.perf_counter() - start)
    base = np.array(times["crossrt"])
    print(
        f"{'exporter':<30} {'pairs/s':>8} {'of crossrt':>16} {'MB':>7} {'nodes':>6} {'export s':>8} {'max |diff|':>10}"
    )
    for name, row in rows.items():
        if "failed" in row:
            print(f"{name:<30} {row['failed']}")
            continue
        ratios = base / np.array(times[name])
        row["pairs_per_s"] = round(arguments.batch / float(np.median(times[name])), 1)
        row["speed_of_crossrt"] = round(float(np.median(ratios)), 3)
        row["speed_p10_p90"] = [round(float(value), 3) for value in np.percentile(ratios, [10, 90])]
        row["max_abs_logit_diff"] = float(np.abs(logits[name] - logits["crossrt"]).max())
        low, high = row["speed_p10_p90"]
        print(
            f"{name:<30} {row['pairs_per_s']:>8} {row['speed_of_crossrt']:>5} ({low:.2f}-{high:.2f}) {row['mb']:>7} "
            f"{row['nodes']:>6} {row['export_s']:>8} {row['max_abs_logit_diff']:>10.1e}"
        )
    if arguments.out:
        shape = {"batch": arguments.batch, "length": arguments.length, "repeats": arguments.repeats}
        write_result(arguments.out, {"checkpoint": arguments.checkpoint.name, **shape, "exporters": rows})


if __name__ == "__main__":
    main()
