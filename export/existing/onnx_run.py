"""Finds the inputs and the number of labels of a foreign ONNX model by running it."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...engine.batching.batch import Batch
from ...engine.errors import CheckpointError
from ...engine.precision import Precision
from ...engine.process.telemetry import telemetry_off
from ...engine.text.pair_tokenizer import PairTokenizer
from ..precision.tolerance import TOLERANCE

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
LONGEST = 512
"""Maximum number of tokens of the pairs that are tried. Longer ones need seconds and gigabytes."""
ADVICE = "; export it again with a dynamic batch size and sequence length and with attention_mask, as Optimum does"


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


def labels_of(
    model: Path, session: Any, inputs: list[str], tokenizer: PairTokenizer, pad_token_id: int, precision: Precision
) -> int:
    """Return the number of labels of the logits, whatever the file declares.

    Pairs of three lengths are scored alone and in one batch, so that a graph whose batch size or sequence length was fixed when
    it was traced, or that ignores its mask, is found here. Raises CheckpointError for such a graph, for a run that fails, and for
    logits that are not finite or not [batch, labels].
    """
    words = "the " * min(tokenizer.max_length, LONGEST)
    pairs = tokenizer.encode([("a", "b"), ("a query", words[: len(words) // 8]), ("a query", words)])

    def logits_of(*rows: int, masked: bool = True) -> npt.NDArray[np.float32]:
        batch = Batch.padded(pairs, np.array(rows), pad_token_id)
        mask = batch.attention_mask if masked else np.ones_like(batch.attention_mask)
        feeds = {name: getattr(batch, name) for name in inputs} | {"attention_mask": mask}
        shape = f"{'a pair' if len(rows) == 1 else f'{len(rows)} pairs'} of {batch.shape[1]} tokens"
        try:
            logits = np.asarray(session.run(["logits"], {name: feeds[name] for name in inputs})[0], dtype=np.float32)
        except Exception as error:
            raise CheckpointError(f"{model} cannot score {shape} ({error}){ADVICE}") from error
        if logits.ndim != 2 or len(logits) != len(rows) or logits.shape[1] < 1:
            raise CheckpointError(
                f"{model} gives logits of shape {list(logits.shape)} for {shape}; a cross-encoder has [batch, labels]{ADVICE}"
            )
        if not np.isfinite(logits).all():
            raise CheckpointError(f"{model} scores {shape} with NaN or Inf; the training or the export went wrong")
        return logits

    alone = np.concatenate([logits_of(row) for row in range(len(pairs))])
    together = logits_of(*range(len(pairs)))
    # INT8 that scales activations by batch changes scores a little by padding, so its tolerance is wide. A graph that ignores the
    # mask is found by the same bits with another mask.
    padded = len(set(pairs.lengths.tolist())) > 1
    masks = "attention_mask" in inputs and not (
        padded and np.array_equal(together, logits_of(*range(len(pairs)), masked=False))
    )
    limit = TOLERANCE[precision if masks else Precision.FP32].max_abs * max(1, np.abs(alone).max())
    difference = np.abs(together - alone).max()
    if difference > limit:
        why = (
            "mixes the pairs of a batch, or attends to padding"
            if masks
            else "attends to padding: it uses no attention_mask"
        )
        raise CheckpointError(f"{model} scores a pair {difference:.2g} apart alone and in a batch, so it {why}{ADVICE}")
    return int(alone.shape[1])
