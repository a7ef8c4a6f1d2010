"""Stand-ins for the objects that Triton's python backend gives to a model."""

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest


class TritonError(Exception):
    INTERNAL, INVALID_ARG, CANCELLED = range(3)

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class Tensor:
    name: str
    array: np.ndarray[Any, Any]

    def as_numpy(self) -> np.ndarray[Any, Any]:
        return self.array


@dataclass
class InferenceResponse:
    outputs: list[Tensor]
    error: TritonError | None = None


@dataclass
class Request:
    """A request for scores: rows of queries and of passages, as texts or bytes."""

    queries: list[Any]
    passages: list[list[Any]]
    cancelled: bool = False
    tensors: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        rows = {"QUERY": [[each] for each in self.queries], "PASSAGES": self.passages}
        self.tensors = {name: Tensor(name, _bytes(value)) for name, value in rows.items()}

    def is_cancelled(self) -> bool:
        return self.cancelled


def _bytes(rows: list[list[Any]]) -> np.ndarray[Any, Any]:
    encoded = [[each.encode() if isinstance(each, str) else each for each in row] for row in rows]
    return np.array(encoded, dtype=object).reshape(len(rows), -1)


@pytest.fixture(scope="session")
def backend() -> Iterator[Any]:
    """Return the module `backend`, imported beside a stand-in for `triton_python_backend_utils`."""
    utils = ModuleType("triton_python_backend_utils")
    vars(utils).update(Tensor=Tensor, InferenceResponse=InferenceResponse, TritonError=TritonError)
    vars(utils)["get_input_tensor_by_name"] = lambda request, name: request.tensors[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "triton_python_backend_utils", utils)
        yield importlib.import_module("crossrt.integrations.triton.backend")


def initialized(backend: Any, model: Path, parameters: dict[str, str] | None = None, **arguments: str) -> Any:
    """Return a `TritonPythonModel` that was initialized as Triton does, for the folder of a written model."""
    config = {"parameters": {name: {"string_value": text} for name, text in (parameters or {}).items()}}
    made = backend.TritonPythonModel()
    made.initialize(
        {
            "model_repository": str(model),
            "model_version": "1",
            "model_config": json.dumps(config),
            "model_instance_kind": "CPU",
            "model_instance_device_id": "0",
            **arguments,
        }
    )
    return made
