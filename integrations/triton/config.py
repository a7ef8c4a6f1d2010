"""`config.pbtxt` of a model: its inputs and outputs, how requests are merged, and on what its instances run.

The format is `ModelConfig` of Triton's model_config.proto, as protobuf text.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ...engine.errors import OptionError
from ...engine.options import whole

QUERY, PASSAGES, SCORES = "QUERY", "PASSAGES", "SCORES"
"""Inputs and output of the model for the python backend."""
TOKEN_IDS, TOKEN_TYPES, LENGTHS, LOGITS = "token_ids", "token_types", "lengths", "logits"
"""Inputs and output of the model for the onnxruntime backend. Triton itself makes LENGTHS, from the shapes of TOKEN_IDS."""
BUNDLE = "bundle"
"""Folder or link in the version's folder of the python backend's model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instances:
    """How Triton runs a model: on the CPU, on each GPU (`cuda`) or on one (`cuda:1`), with at most so many rows at once.

    Raises OptionError for other devices, and for no rows.
    """

    device: str = "cpu"
    max_batch_size: int = 64

    def __post_init__(self) -> None:
        whole("max_batch_size", self.max_batch_size, least=1)
        if not re.fullmatch(r"cpu|cuda(:\d+)?", self.device):
            raise OptionError(f"device {self.device!r}: give cpu, cuda for an instance on each GPU, or cuda:1 for one")


def check_name(name: str) -> None:
    """Raise OptionError for a model name that Triton or its HTTP paths do not take.

    Triton refuses empty names, `..` and a slash, and reads the name from a path (`/v2/models/NAME/infer`), so characters that are
    escaped in paths are refused here too.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise OptionError(
            f"{name!r} is no name for a model of Triton: give letters, digits, and _ . - after the first, with --name"
        )


def python_config(name: str, instances: Instances, parameters: Mapping[str, str]) -> str:
    """Return the configuration of a model that the python backend runs by `backend.py`.

    Lists of any lengths are merged, because PASSAGES may be ragged: the python backend gets each request's array by itself.
    """
    return _config(
        name,
        "python",
        instances,
        parameters,
        _tensor("input", QUERY, "TYPE_STRING", 1),
        _tensor("input", PASSAGES, "TYPE_STRING", -1, ragged=True),
        _tensor("output", SCORES, "TYPE_FP32", -1),
    )


def onnxruntime_config(
    name: str, instances: Instances, parameters: Mapping[str, str], *, token_types: bool, labels: int
) -> str:
    """Return the configuration of a graph of `ragged.py`.

    BATCH_ITEM_SHAPE gives the graph the number of tokens of each row, int32 [rows, 1], also where a request has several rows.
    """
    return _config(
        name,
        "onnxruntime",
        instances,
        parameters,
        _tensor("input", TOKEN_IDS, "TYPE_INT64", -1, ragged=True),
        _tensor("input", TOKEN_TYPES, "TYPE_INT64", -1, ragged=True) if token_types else "",
        f"""batch_input {{
  kind: BATCH_ITEM_SHAPE
  target_name: "{LENGTHS}"
  data_type: TYPE_INT32
  source_input: "{TOKEN_IDS}"
}}
""",
        _tensor("output", LOGITS, "TYPE_FP32", labels),
    )


def _config(name: str, backend: str, instances: Instances, parameters: Mapping[str, str], *tensors: str) -> str:
    head = f'name: "{name}"\nbackend: "{backend}"\nmax_batch_size: {instances.max_batch_size}\n'
    own = (
        f'parameters {{\n  key: "{key}"\n  value {{ string_value: {json.dumps(value, ensure_ascii=False)} }}\n}}\n'
        for key, value in parameters.items()
    )
    return "".join([head, *tensors, "dynamic_batching { }\n", _instance_group(instances.device), *own])


def _tensor(kind: str, name: str, data_type: str, dim: int, *, ragged: bool = False) -> str:
    """An input or output with one dimension besides the rows; -1 is any size."""
    more = "  allow_ragged_batch: true\n" if ragged else ""
    return f'{kind} {{\n  name: "{name}"\n  data_type: {data_type}\n  dims: [ {dim} ]\n{more}}}\n'


def _instance_group(device: str) -> str:
    kind, _, number = device.partition(":")
    gpus = f"  gpus: [ {number} ]\n" if number else ""
    return f"instance_group {{\n  count: 1\n  kind: {'KIND_CPU' if kind == 'cpu' else 'KIND_GPU'}\n{gpus}}}\n"
