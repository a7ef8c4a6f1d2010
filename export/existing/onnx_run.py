"""Finds the inputs and the number of labels of a foreign ONNX model by running it."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from ...engine.errors import CheckpointError
from ...engine.process.telemetry import telemetry_off
from ...engine.text.pair_tokenizer import PairTokenizer

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def session_of(model: Path) -> Any:
    """Open a model in ONNX Runtime without graph optimizations. Raises CheckpointError if it cannot be opened."""
    with telemetry_off():
        import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(os.fspath(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise CheckpointError(f"{model} cannot be opened by ONNX Runtime ({error})") from error


def inputs_of(model: Path, session: Any) -> list[str]:
    """Return the names of the inputs, in the order of `INPUTS`.

    Raises CheckpointError unless the inputs and the output are those of a cross-encoder.
    """
    inputs = {field.name: field.type for field in session.get_inputs()}
    odd = [name for name, kind in inputs.items() if name not in INPUTS or kind != "tensor(int64)"]
    if odd or "input_ids" not in inputs:
        raise CheckpointError(f"{model} has the inputs {inputs}; a cross-encoder has int64 {', '.join(INPUTS)}")
    outputs = {field.name: field.shape for field in session.get_outputs()}
    if len(outputs.get("logits", ())) != 2:
        raise CheckpointError(f"{model} has the outputs {outputs}; a cross-encoder has logits [batch, labels]")
    return [name for name in INPUTS if name in inputs]


def labels_of(model: Path, session: Any, inputs: list[str], tokenizer: PairTokenizer) -> int:
    """Return the number of labels of a run's logits, whatever the file declares.

    Raises CheckpointError for a run that fails and for logits that are not finite or not [1, labels].
    """
    pair = tokenizer.encode([("a query", "a passage")])
    arrays = {
        "input_ids": pair.ids[None].astype(np.int64),
        "attention_mask": np.ones((1, len(pair.ids)), dtype=np.int64),
        "token_type_ids": pair.type_ids[None].astype(np.int64),
    }
    try:
        logits = np.asarray(session.run(["logits"], {name: arrays[name] for name in inputs})[0])
    except Exception as error:
        raise CheckpointError(f"{model} cannot score a pair of {len(pair.ids)} tokens ({error})") from error
    if logits.ndim != 2 or len(logits) != 1 or logits.shape[1] < 1:
        raise CheckpointError(
            f"{model} gives logits of shape {list(logits.shape)}; a cross-encoder has [batch, labels]"
        )
    if not np.isfinite(logits.astype(np.float32)).all():
        raise CheckpointError(f"{model} scores a pair with NaN or Inf; the training or the export went wrong")
    return int(logits.shape[1])
