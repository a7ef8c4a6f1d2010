"""`make_ragged` adds operators to a bundle's ONNX graph that pad the rows that Triton concatenates.

With ragged batching, Triton's onnxruntime backend gives a graph the token ids of all rows one after the other, in one dimension,
and the length of each row as a batch input. The graphs of a bundle take padded arrays [rows, longest] and a mask. `PADDING` makes
these. The graph then gets the same token ids, and gives the same logits, as for a batch that a client padded.
"""

from pathlib import Path

import onnx
from onnx import TensorProto, helper, parser

from ...engine.errors import BundleError
from .config import LENGTHS, TOKEN_IDS, TOKEN_TYPES

PADDING = f"""
ragged () => () {{
  ragged_zero = Constant <value = int64 {{0}}> ()
  ragged_one = Constant <value = int64 {{1}}> ()
  ragged_lengths = Cast <to = {TensorProto.INT64}> ({LENGTHS})
  ragged_longest = ReduceMax <keepdims = 0> (ragged_lengths)
  ragged_columns = Range (ragged_zero, ragged_longest, ragged_one)
  ragged_inside = Less (ragged_columns, ragged_lengths)
  ragged_starts = CumSum <exclusive = 1> (ragged_lengths, ragged_zero)
  ragged_places = Add (ragged_starts, ragged_columns)
  ragged_within = Where (ragged_inside, ragged_places, ragged_zero)
}}
"""
"""Computes the index of each row's tokens: `ragged_within` [rows, longest]. It is 0 in padding, where `ragged_inside` is False.

`lengths` is [rows, 1] and `ragged_columns` is [longest], so that they broadcast. The operators exist from opset 11 on.
"""
INPUTS = {
    "input_ids": f"""
ragged () => () {{
  ragged_pad = Constant <value = int64 {{PAD}}> ()
  ragged_ids = Gather ({TOKEN_IDS}, ragged_within)
  input_ids = Where (ragged_inside, ragged_ids, ragged_pad)
}}
""",
    "token_type_ids": f"""
ragged () => () {{
  ragged_types = Gather ({TOKEN_TYPES}, ragged_within)
  token_type_ids = Where (ragged_inside, ragged_types, ragged_zero)
}}
""",
    "attention_mask": f"""
ragged () => () {{
  attention_mask = Cast <to = {TensorProto.INT64}> (ragged_inside)
}}
""",
}
"""The operators that make each input of a bundle's graph."""


def make_ragged(file: Path, *, pad_token_id: int) -> None:
    """Replace the inputs of the graph in a file by `token_ids`, `token_types` and `lengths`.

    `token_ids` and `token_types` are int64 [tokens], the tokens of all rows without padding. `token_types` exists only if the
    graph has token types. `lengths` is int32 [rows, 1]. The output stays float32 [rows, labels]. Weights may be in files beside
    the graph. Raises BundleError for a graph with other inputs.
    """
    model = onnx.load(str(file), load_external_data=False)
    inputs = [each.name for each in model.graph.input]
    strange = [name for name in inputs if name not in INPUTS]
    if strange:
        raise BundleError(
            f"the ONNX graph has the input {strange[0]!r}; ragged batches need one with {', '.join(INPUTS)}"
        )
    texts = [PADDING, *(INPUTS[name].replace("PAD", str(pad_token_id)) for name in inputs)]
    nodes = [*(node for text in texts for node in parser.parse_graph(text).node), *model.graph.node]
    del model.graph.node[:], model.graph.input[:]
    model.graph.node.extend(nodes)
    model.graph.input.append(helper.make_tensor_value_info(TOKEN_IDS, TensorProto.INT64, ["tokens"]))
    if "token_type_ids" in inputs:
        model.graph.input.append(helper.make_tensor_value_info(TOKEN_TYPES, TensorProto.INT64, ["tokens"]))
    model.graph.input.append(helper.make_tensor_value_info(LENGTHS, TensorProto.INT32, ["rows", 1]))
    onnx.save(model, str(file))
    onnx.checker.check_model(str(file))
