"""`config.pbtxt` is a `ModelConfig` of Triton's schema, and says of a graph what the graph is."""

from pathlib import Path
from typing import Any

import pytest

from crossrt import Bundle
from crossrt.engine.errors import OptionError
from crossrt.integrations.triton.config import Instances, onnxruntime_config, python_config
from crossrt.integrations.triton.repository import write_onnxruntime_model

DTYPES = {"TYPE_INT64": 7, "TYPE_INT32": 6, "TYPE_FP32": 1}
"""Names of Triton's data types, and ONNX's numbers for the same."""


def parsed(text: str) -> Any:
    """Return the configuration as Triton parses it: an unknown field is an error."""
    schema = pytest.importorskip(
        "tritonclient.grpc.model_config_pb2",
        reason="tritonclient[grpc] is not installed: run scripts/integrations triton",
    )
    from google.protobuf import text_format

    return text_format.Parse(text, schema.ModelConfig())


def kinds(message: Any, field: str) -> Any:
    """Return the name of the value of an enum."""
    return message.DESCRIPTOR.fields_by_name[field].enum_type.values_by_number[getattr(message, field)].name


def test_lists_of_any_length_are_merged_by_the_python_backend() -> None:
    config = parsed(python_config("m", Instances(max_batch_size=8), {"precision": "int8", "relevant_label": 'a "b" é'}))
    assert (config.name, config.backend, config.max_batch_size) == ("m", "python", 8)
    assert config.HasField("dynamic_batching")
    rows = [(each.name, kinds(each, "data_type"), list(each.dims), each.allow_ragged_batch) for each in config.input]
    assert rows == [("QUERY", "TYPE_STRING", [1], False), ("PASSAGES", "TYPE_STRING", [-1], True)]
    [output] = config.output
    assert (output.name, kinds(output, "data_type"), list(output.dims)) == ("SCORES", "TYPE_FP32", [-1])
    parameters = {name: value.string_value for name, value in config.parameters.items()}
    assert parameters == {"precision": "int8", "relevant_label": 'a "b" é'}


@pytest.mark.parametrize(
    ("device", "kind", "gpus"),
    [("cpu", "KIND_CPU", []), ("cuda", "KIND_GPU", []), ("cuda:1", "KIND_GPU", [1])],
)
def test_a_device_is_a_group_of_instances(device: str, kind: str, gpus: list[int]) -> None:
    [group] = parsed(python_config("m", Instances(device=device), {})).instance_group
    assert (kinds(group, "kind"), list(group.gpus), group.count) == (kind, gpus, 1)


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:0,1", "auto"])
def test_another_device_is_refused(device: str) -> None:
    with pytest.raises(OptionError, match="give cpu, cuda for an instance on each GPU, or cuda:1 for one"):
        Instances(device=device)


def test_no_rows_at_once_are_refused() -> None:
    with pytest.raises(OptionError, match="max_batch_size=0: give a whole number from 1"):
        Instances(max_batch_size=0)


def test_the_configuration_of_a_graph_agrees_with_the_graph(demo_bundle: Path, tmp_path: Path) -> None:
    """The rules are those by which Triton's core and its onnxruntime backend check a model that they load."""
    onnx = pytest.importorskip("onnx")
    folder = write_onnxruntime_model(Bundle.open(demo_bundle), tmp_path, "m", Instances(), threads=2)
    config = parsed((folder / "config.pbtxt").read_text())
    graph = onnx.load(folder / "1/model.onnx").graph
    shapes = {
        each.name: (each.type.tensor_type.elem_type, [d.dim_value or -1 for d in each.type.tensor_type.shape.dim])
        for each in (*graph.input, *graph.output)
    }
    for each in config.input:  # what is ragged is one dimension of any size in the graph
        assert each.allow_ragged_batch
        assert shapes[each.name] == (DTYPES[kinds(each, "data_type")], [-1])
    [batch_input] = config.batch_input
    assert kinds(batch_input, "kind") == "BATCH_ITEM_SHAPE"
    assert list(batch_input.source_input) == ["token_ids"]
    assert shapes[batch_input.target_name[0]] == (DTYPES[kinds(batch_input, "data_type")], [-1, 1])
    [output] = config.output
    assert shapes[output.name] == (DTYPES[kinds(output, "data_type")], [-1, *output.dims])
    named = {each.name for each in config.input} | set(batch_input.target_name)
    assert named == {each.name for each in graph.input}
    assert config.max_batch_size > 0
    assert config.parameters["intra_op_thread_count"].string_value == "2"


def test_a_graph_without_token_types_has_one_input() -> None:
    config = parsed(onnxruntime_config("m", Instances(), {}, token_types=False, labels=3))
    assert [each.name for each in config.input] == ["token_ids"]
    assert list(config.output[0].dims) == [3]
