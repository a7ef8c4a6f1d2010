"""`onnx_from_checkpoint`: the checkpoint's encoder and head, written as an ONNX graph.

Few architectures are supported, so the graph is written directly from the weights instead of being traced. The graph then has
plain operators and readable names, computes the attention mask once, and does not depend on the version of transformers.
docs/decisions/0004 compares this with PyTorch's exporters. The parity check compares every export with transformers' own model.
"""

import shutil
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from ..checkpoint.checkpoint import Checkpoint
from .encoder import ONNX_RUNTIME, EncoderGraph
from .modernbert import ModernBertGraph
from .numerics import FP32, Numerics
from .typed_graph import TypedGraph

OPSET = 17  # the lowest with LayerNormalization, and the highest that TensorRT 8.6 can parse
OPSET_WITH_FP16_SCALES = 19  # the lowest whose QuantizeLinear accepts FP16
IR_VERSIONS = {OPSET: 8, OPSET_WITH_FP16_SCALES: 9}
EXTERNAL_DATA_ABOVE = 1_900_000_000  # bytes; a protobuf message holds at most 2 GiB


def onnx_from_checkpoint(checkpoint: Checkpoint, path: Path, numerics: Numerics = FP32) -> None:
    """Write the ONNX model of a checkpoint, with the types that `numerics` gives.

    The inputs are `input_ids`, `attention_mask` and, if the model has token types, `token_type_ids`: int64 [batch, sequence],
    with both axes dynamic. The output is `logits`, float32 [batch, labels] in every precision. The weights are in the file, or
    in `<file>_data` beside it if protobuf cannot hold them. Raises CheckpointError for weights that are NaN or Inf.
    """
    save_checked(graph_of(checkpoint, numerics), path)


def save_checked(model: onnx.ModelProto, path: Path) -> None:
    """Write a model as `save` does, and check the file with the ONNX checker."""
    save(model, path)
    onnx.checker.check_model(str(path))


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a model. Weights that are too large for protobuf go into `<path>_data` beside it.

    transformers.js looks for the weights under that name. The folder is created if its parent exists. `model` may be used and
    written again afterwards.
    """
    path.parent.mkdir(exist_ok=True)
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if size > EXTERNAL_DATA_ABOVE:
        onnx.save_model(model, path, save_as_external_data=True, location=f"{path.name}_data", size_threshold=1024)
        shutil.copymode(path, path.with_name(f"{path.name}_data"))  # onnx makes it readable by its owner alone
        # onnx has moved the weights from `model` to the file. Without this, `model` would need that file as long as it is used.
        onnx.load_external_data_for_model(model, str(path.parent))
    else:
        onnx.save_model(model, path)


def graph_of(checkpoint: Checkpoint, numerics: Numerics = FP32) -> onnx.ModelProto:
    """Return the ONNX model of a checkpoint, in memory."""
    graph = typed_graph_of(checkpoint, numerics)
    inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if checkpoint.token_types else [])]
    model = model_of(
        helper.make_graph(
            graph.nodes,
            "cross_encoder",
            [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in inputs],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", checkpoint.labels])],
        ),
        numerics,
    )
    # make_graph and make_model copy what they are given. So the weights are added last, and one by one.
    for tensor in graph.taken_initializers():
        model.graph.initializer.append(tensor)
    return model


def typed_graph_of(checkpoint: Checkpoint, numerics: Numerics = FP32) -> TypedGraph:
    """Return the nodes and constants of a checkpoint's graph. No weight is written yet."""
    kind = ModernBertGraph if checkpoint.layout.encoder == "modernbert" else EncoderGraph
    graph = kind(checkpoint, numerics)
    graph.build()
    return graph


def model_of(graph: onnx.GraphProto, numerics: Numerics) -> onnx.ModelProto:
    """Return a model of a graph, with the versions of the operators that `numerics` needs."""
    opset = OPSET_WITH_FP16_SCALES if numerics.fp16 and numerics.quantized else OPSET
    return helper.make_model(
        graph,
        opset_imports=[
            helper.make_opsetid("", opset),
            *([helper.make_opsetid(ONNX_RUNTIME, 1)] if numerics.fused else []),
        ],
        ir_version=IR_VERSIONS[opset],
        producer_name="crossrt",
    )
