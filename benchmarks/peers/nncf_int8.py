#!/usr/bin/env python3
"""Quantize an ONNX file with NNCF, but leave the head in floating point. It runs in an environment of its own.

nncf_int8.py FULL.onnx FEEDS.npz OUT.onnx
"""

import sys

import nncf
import numpy as np
import onnx

full, feeds, out = sys.argv[1:]
arrays = np.load(feeds)
batches: dict[int, dict[str, np.ndarray]] = {}
for key in arrays.files:
    number, name = key.split("/")
    batches.setdefault(int(number), {})[name] = arrays[key]
model = onnx.load(full)
head = [node.name for node in model.graph.node if node.name.startswith("head.") or node.name == "logits"]
quantized = nncf.quantize(
    model,
    nncf.Dataset(list(batches.values())),
    preset=nncf.QuantizationPreset.PERFORMANCE,
    model_type=nncf.ModelType.TRANSFORMER,
    subset_size=len(batches),
    ignored_scope=nncf.IgnoredScope(names=head),
)
onnx.save(quantized, out)
