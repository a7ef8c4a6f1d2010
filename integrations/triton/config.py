"""`config.pbtxt` of a model: its inputs and outputs, how requests are batched, and the devices of its instances.

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
"""Inputs and output of the model for the onnxruntime backend. Triton computes LENGTHS from the shapes of TOKEN_IDS."""
BUNDLE = "bundle"
"""Folder or link in the version's folder of the python backend's model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instances:
    """How Triton runs a model: on the CPU, on each GPU (`cuda`) or on one GPU (`cuda:1`), and the most rows in a batch.

    Raises OptionError for other devices, and for `max_batch_size` below 1.
    """

    device: str = "cpu"
    max_batch_size: int = 64

    def __post_init__(self) -> None:
        whole("max_batch_size", self.max_batch_size, minimum=1)
        if not re.fullmatch(r"cpu|cuda(:\d+)?", self.device):
            raise OptionError(f"device {self.device!r}: give cpu, cuda for an instance on each GPU, or cuda:1 for one")


def check_name(name: str) -> None:
    """Raise OptionError for a model name that does not work in Triton or in its HTTP paths.

    Triton refuses empty names, `..` and a slash. It reads the name from a path (`/v2/models/NAME/infer`), so characters that are
    escaped in paths are refused here too.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise OptionError(
            f"{name!r} is no name for a model of Triton: give letters, digits, and _ . - after the first, with --name"
        )


def python_config(name: str, instances: Instances, parameters: Mapping[str, str]) -> str:
    """Return the configuration of a model that the python backend runs with `backend.py`.

    PASSAGES may be ragged, so lists of different lengths are batched. The python backend gets each request's array separately.
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

    BATCH_ITEM_SHAPE gives the graph the number of tokens of each row, int32 [rows, 1], even if a request has several rows.
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
    """Return an input or output with one dimension besides the rows. -1 means any size."""
    more = "  allow_ragged_batch: true\n" if ragged else ""
    return f'{kind} {{\n  name: "{name}"\n  data_type: {data_type}\n  dims: [ {dim} ]\n{more}}}\n'


def _instance_group(device: str) -> str:
    kind, _, number = device.partition(":")
    gpus = f"  gpus: [ {number} ]\n" if number else ""
    return f"instance_group {{\n  count: 1\n  kind: {'KIND_CPU' if kind == 'cpu' else 'KIND_GPU'}\n{gpus}}}\n"
