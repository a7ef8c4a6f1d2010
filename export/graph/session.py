"""Runs graphs that are in memory in ONNX Runtime, on the CPU."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from ...engine.backends.onnxruntime_cpu import session_options
from ...engine.batching.batch import Batch
from ...engine.batching.plan import plan_batches
from ...engine.hardware.cpus import usable_cpus
from ...engine.process.telemetry import telemetry_off
from ...engine.text.pair_tokenizer import PairTokenizer
from .writer import save

with telemetry_off():
    import onnxruntime

Floats = npt.NDArray[np.float32]


def session_of(model: onnx.ModelProto, *, profile: Path | None = None) -> onnxruntime.InferenceSession:
    """Open a graph in ONNX Runtime, with all usable processors and INT8 products that do not saturate.

    With `profile`, the session records the run of each operator. `profile` is the prefix of the profile's path.
    """
    options = session_options(usable_cpus())
    # Operators run in the order of the graph. In ONNX Runtime's default order, operators whose results are outputs may run last,
    # and what they read stays in memory until then: the tensors of all layers.
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    with tempfile.TemporaryDirectory() as directory:  # a file, because protobuf serializes at most 2 GB to bytes
        path = Path(directory) / "model.onnx"
        save(model, path)
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def feeds_of(session: onnxruntime.InferenceSession, batch: Batch) -> Mapping[str, npt.NDArray[np.int64]]:
    """Return the inputs of a session by name, from a batch."""
    return {field.name: getattr(batch, field.name) for field in session.get_inputs()}


def logits_of(model: onnx.ModelProto, batches: Iterable[Batch]) -> Floats:
    """Return the logits of all batches, float32 [pairs, labels], in the order of the batches."""
    session = session_of(model)
    del model  # the session has its own copy of the weights
    return np.concatenate([session.run(["logits"], feeds_of(session, batch))[0] for batch in batches])


def batches_of(tokenizer: PairTokenizer, pairs: Sequence[tuple[str, str]], *, pad_id: int) -> Iterator[Batch]:
    """Tokenize pairs and yield them in batches of at most 16, sorted by length."""
    encoded = tokenizer.encode(pairs)
    yield from plan_batches(encoded.lengths, batch_size=16).batches(encoded, pad_id=pad_id)
