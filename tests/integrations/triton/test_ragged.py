"""A graph with ragged inputs gives the logits of a padded batch."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from crossrt import Bundle, CrossEncoder
from crossrt.engine.errors import BundleError
from crossrt.engine.precision import Precision
from crossrt.integrations.triton.ragged import make_ragged

NO_TYPES = """
types () => () {
  shape = Shape (input_ids)
  token_type_ids = ConstantOfShape <value = int64[1] {0}> (shape)
}
"""


def ragged(bundle: Bundle, precision: str, folder: Path) -> Any:
    """Return a session of the graph with ragged inputs."""
    shutil.copyfile(bundle.model_file(Precision(precision)), folder / "model.onnx")
    make_ragged(folder / "model.onnx", pad_token_id=bundle.manifest.pad_token_id)
    return onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])


def logits(session: Any, encoded: Any, rows: list[int]) -> Any:
    """Return the logits of some pairs, given one after the other as Triton does."""
    chosen = encoded.select(np.array(rows))
    arrays = {"token_ids": chosen.ids, "token_types": chosen.type_ids}
    names = {each.name for each in session.get_inputs()}
    given = {name: array.astype(np.int64) for name, array in arrays.items() if name in names}
    return session.run(None, {**given, "lengths": chosen.lengths.astype(np.int32)[:, None]})[0]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_rows_of_any_length_get_the_logits_of_a_padded_batch(
    rounded: Path, pairs: list[tuple[str, str]], precision: str, tmp_path: Path
) -> None:
    bundle = Bundle.open(rounded)
    session = ragged(bundle, precision, tmp_path)
    with CrossEncoder(bundle, precision=precision, backend="onnxruntime", device="cpu") as model:
        encoded, wanted = model.encode(pairs), model.logits(pairs)
    assert len(set(encoded.lengths.tolist())) > 2
    for rows in ([0], [3, 0, 5], list(range(len(pairs)))):
        np.testing.assert_allclose(logits(session, encoded, rows), wanted[rows], rtol=0, atol=1e-5)


def test_a_graph_without_token_types_takes_none(bundle: Path, tmp_path: Path) -> None:
    """The graph of a BERT with a constant type of 0 stands for one of a model without types."""
    opened = Bundle.open(bundle)
    model = onnx.load(opened.model_file(Precision.FP32))
    nodes = [*onnx.parser.parse_graph(NO_TYPES).node, *model.graph.node]
    inputs = [each for each in model.graph.input if each.name != "token_type_ids"]
    del model.graph.node[:], model.graph.input[:]
    model.graph.node.extend(nodes)
    model.graph.input.extend(inputs)
    onnx.save(model, tmp_path / "model.onnx")
    make_ragged(tmp_path / "model.onnx", pad_token_id=opened.manifest.pad_token_id)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == ["token_ids", "lengths"]
    with CrossEncoder(opened, device="cpu") as opened_model:
        assert logits(session, opened_model.encode([("a", "b"), ("a", "b c")]), [0, 1]).shape == (2, 1)


def test_a_graph_with_another_input_is_refused(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info("position_ids", onnx.TensorProto.INT64, ["batch", "sequence"])
    graph = onnx.helper.make_graph([], "g", [value], [value])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "model.onnx")
    with pytest.raises(BundleError, match="the ONNX graph has the input 'position_ids'"):
        make_ragged(tmp_path / "model.onnx", pad_token_id=0)
