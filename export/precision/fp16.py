"""FP16: which tensors cannot be held in it, and how a graph behaves when every operator rounds.

ONNX Runtime's CPU provider computes most FP16 operators in FP32, so a model that overflows on a GPU may come out finite
there. Overflow is therefore looked for in two ways: by the largest magnitude of every tensor in an FP32 run, and by `rounded`,
the same graph with an explicit rounding to FP16 after every operator.
"""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from tqdm import tqdm

from ...engine.backends.onnxruntime_cpu import session_options
from ...engine.batching.batch import Batch
from ...engine.batching.plan import plan_batches
from ...engine.errors import CheckpointError
from ...engine.hardware.cpus import usable_cpus
from ...engine.process.telemetry import telemetry_off
from ...engine.text.pair_tokenizer import PairTokenizer
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.heads import HEAD_LAYERS
from ..graph.numerics import FP16, FP32, HALF_MAX, Numerics
from ..graph.writer import graph_of, save

with telemetry_off():
    import onnxruntime

MARGIN = 4.0
"""A tensor that comes within this factor of FP16's greatest number stays FP32: other texts may go further."""

Floats = npt.NDArray[np.float32]
STORED = frozenset(
    "query_key_value query key_value attention_weights context attention_output attention_norm activation output "
    "output_norm".split()
)
"""Ends of the names of what the native kernels for GPUs hand on in FP16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptTensor:
    """A tensor, or all tensors of a part, that stays in FP32, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfPrecision:
    """How a checkpoint's FP16 graph is computed, and what stayed behind in FP32.

    `error` is the largest |logit - FP32 logit| over the pairs it was chosen on, with a rounding after every operator.
    """

    numerics: Numerics
    kept: tuple[KeptTensor, ...]
    error: float


def half_precision(
    checkpoint: Checkpoint, batches: Sequence[Batch], *, max_abs: float, progress: bool = False
) -> HalfPrecision:
    """Choose which tensors of the FP16 graph stay FP32, by what they hold on `batches` of real pairs.

    First those that would overflow, with a margin of four. Then, while the logits err by more than half of `max_abs`,
    the part of the model that does the most damage. Raises CheckpointError when the FP32 graph itself overflows.
    """
    plain = graph_of(checkpoint, FP32)
    expected = logits_of(plain, batches)
    if not np.isfinite(expected).all():
        raise CheckpointError(f"{checkpoint.path}: the FP32 model itself gives NaN or Inf on the calibration pairs")
    largest = magnitudes(plain, tqdm(batches, desc="FP16 magnitudes", unit="batch", disable=not progress))
    overflowing = {name: value for name, value in largest.items() if value * MARGIN > HALF_MAX}
    kept = [
        KeptTensor(name=name, reason=f"magnitude {value:,.0f}; FP16 ends at {HALF_MAX:,.0f}")
        for name, value in overflowing.items()
    ]
    numerics = replace(FP16, float32=frozenset(overflowing))

    def error_of(candidate: Numerics) -> float:
        found = logits_of(rounded(graph_of(checkpoint, candidate)), batches)
        return float(np.nan_to_num(np.abs(found - expected), nan=np.inf).max())

    parts = _parts(largest)
    error = error_of(numerics)
    while error > max_abs / 2 and parts:
        errors = {
            part: error_of(replace(numerics, float32=numerics.float32 | names))
            for part, names in tqdm(parts.items(), desc="FP16 parts", unit="part", disable=not progress)
        }
        best = min(errors, key=errors.__getitem__)
        numerics = replace(numerics, float32=numerics.float32 | parts.pop(best))
        kept.append(KeptTensor(name=best, reason=f"error {error:.1e} with it, {errors[best]:.1e} without"))
        error = errors[best]
    return HalfPrecision(numerics=numerics, kept=tuple(kept), error=error)


def _parts(names: Iterable[str]) -> dict[str, frozenset[str]]:
    """Group tensors by part: the embeddings, and the attention, feed-forward and residual path of each layer."""
    found: dict[str, set[str]] = {}
    for name in names:
        pieces = name.split(".")
        if pieces[0] != "layer":
            part = "embeddings"
        elif "residual" in name or "norm" in name:
            part = f"layer.{pieces[1]}.residual"
        else:
            inner = pieces[2].startswith(("intermediate", "activation", "output"))
            part = f"layer.{pieces[1]}.{'feed_forward' if inner else 'attention'}"
        found.setdefault(part, set()).add(name)
    return {part: frozenset(members) for part, members in found.items()}


def magnitudes(model: onnx.ModelProto, batches: Iterable[Batch]) -> dict[str, float]:
    """Return the largest magnitude of every tensor that the FP32 graph computes up to its head.

    Padding counts too: an infinity there is multiplied by an attention weight of zero, which gives NaN. The mask's own
    values do not count. Memory does not grow with the number of batches.
    """
    names = [
        node.output[0]
        for node in model.graph.node
        if not node.output[0].startswith(("mask.", "positions.", "head."))
        and not node.output[0].endswith("attention_masked")
        and node.output[0] != "logits"
    ]
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    for name in names:
        watched.graph.node.append(helper.make_node("Abs", [name], [f"{name}.absolute"]))
        watched.graph.node.append(
            helper.make_node("ReduceMax", [f"{name}.absolute"], [f"{name}.magnitude"], keepdims=0)
        )
        watched.graph.output.append(helper.make_tensor_value_info(f"{name}.magnitude", TensorProto.FLOAT, []))
    session = session_of(watched)
    outputs = [f"{name}.magnitude" for name in names]
    largest = np.zeros(len(names))
    for batch in batches:
        largest = np.maximum(largest, session.run(outputs, feeds_of(session, batch)))
    found = dict(zip(names, largest.tolist(), strict=True))
    # Scores with the mask added are as large as the scores, where they count.
    return found | {
        f"{name.removesuffix('scores')}masked": value
        for name, value in found.items()
        if name.endswith("attention_scores")
    }


def rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an FP32 graph that rounds to FP16 wherever the FP16 graph `model` does: after every FP16 operator.

    Matrix products sum in FP32 and round once, as tensor cores with FP32 accumulators do.
    """
    graph = onnx.GraphProto(name=model.graph.name, input=model.graph.input, output=model.graph.output)
    half = set()
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float16:
            half.add(tensor.name)
            values = values.astype(np.float32)
        graph.initializer.append(numpy_helper.from_array(values, tensor.name))
    for original in model.graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(original)
        output = node.output[0]
        if node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT16:
            half.add(output)
            node.attribute[0].i = TensorProto.FLOAT
        elif node.op_type not in ("Cast", "QuantizeLinear") and any(name in half for name in node.input):
            half.add(output)  # the writer gives a node one type for all its floating-point inputs and its output
        graph.node.append(node)
        if output in half:
            _round_last(graph)
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _round_last(graph: onnx.GraphProto) -> None:
    """Round what the last node makes to FP16, for all that read it."""
    output = graph.node[-1].output[0]
    graph.node[-1].output[0] = f"{output}.exact"
    graph.node.append(helper.make_node("Cast", [f"{output}.exact"], [f"{output}.half"], to=TensorProto.FLOAT16))
    graph.node.append(helper.make_node("Cast", [f"{output}.half"], [output], to=TensorProto.FLOAT))


def rounded_where_stored(checkpoint: Checkpoint) -> onnx.ModelProto:
    """Return the FP32 graph as the native kernels for GPUs compute it.

    Weights of products are FP16, and so is whatever one kernel stores for the next; sums, LayerNorm and softmax are FP32, and
    GELU has its form with tanh, which cuBLAS has.
    """
    known = replace(checkpoint, dimensions=replace(checkpoint.dimensions, hidden_act="gelu_new"))
    graph = graph_of(known)
    last = f"head.{len(HEAD_LAYERS[checkpoint.head].linears) - 1}."
    for tensor in graph.graph.initializer:
        name = tensor.name
        product = name.startswith(("layer.", "head.")) and not name.startswith(last) and "_norm." not in name
        if name == "word.weight" or (product and (not name.startswith("head.") or name.endswith(".weight"))):
            with np.errstate(over="ignore"):  # inf, which parity sees
                values = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, name))
    nodes = list(graph.graph.node)
    del graph.graph.node[:]
    for node in nodes:
        graph.graph.node.append(node)
        output = node.output[0]
        stem, _, end = output.rpartition(".")
        if output == "embedding_norm" or (stem.startswith("layer.") and end in STORED):
            _round_last(graph.graph)
    return graph


def logits_of(model: onnx.ModelProto, batches: Iterable[Batch]) -> Floats:
    """Return the logits of all batches, one after the other, float32 [pairs, labels]."""
    session = session_of(model)
    return np.concatenate([session.run(["logits"], feeds_of(session, batch))[0] for batch in batches])


def batches_of(encoder: PairTokenizer, pairs: Sequence[tuple[str, str]], *, pad_id: int) -> Iterator[Batch]:
    """Tokenize pairs and cut them into batches, as scoring does."""
    encoded = encoder.encode(pairs)
    yield from plan_batches(encoded.lengths, batch_size=16).batches(encoded, pad_id=pad_id)


def session_of(model: onnx.ModelProto, *, profile: Path | None = None) -> onnxruntime.InferenceSession:
    """Open a graph in ONNX Runtime, with all usable processors and exact integer sums."""
    options = session_options(usable_cpus())
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    with tempfile.TemporaryDirectory() as directory:  # from a file, since a model above 2 GB does not fit into a string
        path = Path(directory) / "model.onnx"
        save(model, path)
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def feeds_of(session: onnxruntime.InferenceSession, batch: Batch) -> Mapping[str, npt.NDArray[np.int64]]:
    """Return those arrays of a batch that the session takes."""
    return {field.name: getattr(batch, field.name) for field in session.get_inputs()}
