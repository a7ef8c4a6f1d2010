"""`TritonPythonModel` is what Triton's python backend runs. The `model.py` that `crossrt triton` writes imports it.

`triton_python_backend_utils` exists only in the processes of Triton, so no other module of crossrt imports this one.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

from ...engine.cross_encoder import CrossEncoder
from ...engine.errors import CrossrtError, InputError
from .config import BUNDLE, PASSAGES, QUERY, SCORES
from .parameters import options_of


@dataclass(frozen=True, slots=True)
class Lists:
    """The pairs of one request, row by row, and the shape (rows, passages) of its scores."""

    pairs: list[tuple[str, str]]
    shape: tuple[int, int]


class TritonPythonModel:
    """Scores lists of passages: each row of a request is a query with its passages.

    QUERY is BYTES [rows, 1], PASSAGES is BYTES [rows, passages], both UTF-8. SCORES is FP32 [rows, passages], the scores that
    `CrossEncoder.rank` sorts by. Triton calls each instance from one thread.
    """

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the bundle in the version's folder, on the instance's device. Raises the errors of `CrossEncoder`."""
        bundle = Path(args["model_repository"]) / args["model_version"] / BUNDLE
        parameters = json.loads(args["model_config"]).get("parameters", {})
        options = options_of({name: value["string_value"] for name, value in parameters.items()})
        on_gpu = args["model_instance_kind"] == "GPU"
        device = f"cuda:{args['model_instance_device_id']}" if on_gpu else "cpu"
        self.model = CrossEncoder(bundle, device=device, **options)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request with its scores or an error message. All requests are scored in one call.

        A request that cannot be read, or whose scores are NaN or Inf, does not affect the others. A request that its client has
        cancelled is not scored.
        """
        read = [_read(request) for request in requests]
        pairs = [pair for each in read if isinstance(each, Lists) for pair in each.pairs]
        try:
            logits = iter(self.model.logits(pairs))
        except CrossrtError as error:
            return [_refusal(str(error)) if isinstance(each, Lists) else each for each in read]
        return [self._answer(each.shape, logits) if isinstance(each, Lists) else each for each in read]

    def _answer(self, shape: tuple[int, int], logits: Iterator[npt.NDArray[np.float32]]) -> Any:
        """Return the response with the scores of as many of the next logits as the shape has."""
        own = np.array(list(islice(logits, shape[0] * shape[1])))
        try:
            scores = self.model.relevance(own).reshape(shape)
        except CrossrtError as error:
            return _refusal(str(error))
        return pb_utils.InferenceResponse([pb_utils.Tensor(SCORES, scores)])

    def finalize(self) -> None:
        """Free the model."""
        self.model.close()


def _read(request: Any) -> Any:
    """Return the `Lists` of a request, or the error response if it cannot be read."""
    if request.is_cancelled():
        return _refusal("the client cancelled the request", pb_utils.TritonError.CANCELLED)
    try:
        return _lists(_texts(request, QUERY), _texts(request, PASSAGES))
    except InputError as error:
        return _refusal(str(error), pb_utils.TritonError.INVALID_ARG)


def _lists(queries: npt.NDArray[np.object_], passages: npt.NDArray[np.object_]) -> Lists:
    if passages.ndim != 2 or queries.shape != (len(passages), 1):
        raise InputError(
            f"{QUERY} is {list(queries.shape)} and {PASSAGES} {list(passages.shape)}; "
            "expected [rows, 1] and [rows, passages]: a query for each row of passages"
        )
    if passages.size == 0:
        raise InputError(f"{PASSAGES} is {list(passages.shape)}; give at least one passage for each query")
    pairs = [(query, passage) for [query], row in zip(queries, passages, strict=True) for passage in row]
    return Lists(pairs, (passages.shape[0], passages.shape[1]))


def _texts(request: Any, name: str) -> npt.NDArray[np.object_]:
    """Return the texts of an input, in its shape. Raises InputError, naming the index, for bytes that are not UTF-8."""
    raw = pb_utils.get_input_tensor_by_name(request, name).as_numpy()
    texts = np.empty(raw.shape, dtype=object)
    for place, value in np.ndenumerate(raw):
        try:
            texts[place] = value.decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{name}{list(place)} is not UTF-8: {error.reason} at byte {error.start}") from None
    return texts


def _refusal(message: str, *code: int) -> Any:
    return pb_utils.InferenceResponse([], pb_utils.TritonError(message, *code))
