"""What Triton's python backend runs: merged requests get the scores of `predict`, and each its own error."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossrt import Bundle, CrossEncoder
from crossrt.engine.errors import BackendError, OptionError
from crossrt.integrations.triton.config import Instances
from crossrt.integrations.triton.repository import write_python_model

from .conftest import Request, TritonError, initialized

QUERY, OTHER = "where is the river", "how long does it take"
TEXTS = ["berlin is a city", "the river is long and green", "", "eggs and salt " * 6]


@pytest.fixture(scope="module")
def folder(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("repository")
    return write_python_model(Bundle.open(bundle), repository, "tiny", Instances(), {})


@pytest.fixture(scope="module")
def served(backend: Any, folder: Path) -> Iterator[Any]:
    made = initialized(backend, folder)
    yield made
    made.finalize()


def scores(response: Any) -> Any:
    assert response.error is None
    [tensor] = response.outputs
    assert (tensor.name, tensor.array.dtype) == ("SCORES", np.float32)
    return tensor.array


def test_requests_of_any_shape_are_scored_in_one_call(
    served: Any, model: CrossEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    whole = served.model.logits
    monkeypatch.setattr(served.model, "logits", lambda pairs: calls.append(len(pairs)) or whole(pairs))
    requests = [
        Request([QUERY], [TEXTS]),
        Request([QUERY, OTHER], [TEXTS[:2], TEXTS[2:]]),
        Request([OTHER], [TEXTS[:1]]),
        Request([QUERY, OTHER], [[TEXTS[0]], [TEXTS[1]]]),
    ]
    responses = served.execute(requests)
    assert calls == [11]
    for request, response in zip(requests, responses, strict=True):
        pairs = [(query, text) for query, row in zip(request.queries, request.passages, strict=True) for text in row]
        assert scores(response).shape == (len(request.queries), len(request.passages[0]))
        np.testing.assert_allclose(scores(response).ravel(), model.predict(pairs), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Request([QUERY], [["fine", b"caf\xe9"]]), r"PASSAGES\[0, 1\] is not UTF-8: unexpected end of data at byte 3"),
        (Request([b"\xff"], [["fine"]]), r"QUERY\[0, 0\] is not UTF-8: invalid start byte at byte 0"),
        (Request([QUERY], [[]]), r"PASSAGES is \[1, 0\]; give at least one passage for each query"),
        (Request([QUERY, OTHER], [["a"]]), r"QUERY is \[2, 1\] and PASSAGES \[1, 1\]; expected \[rows, 1\]"),
    ],
    ids=["a passage in Latin-1", "a query of no encoding", "no passages", "too many queries"],
)
def test_a_request_that_cannot_be_read_gets_its_own_error(served: Any, bad: Request, message: str) -> None:
    good = Request([QUERY], [TEXTS])
    [alone] = served.execute([good])
    before, refused, after = served.execute([good, bad, good])
    assert refused.error.code == TritonError.INVALID_ARG
    with pytest.raises(TritonError, match=message):
        raise refused.error
    for response in (before, after):
        np.testing.assert_allclose(scores(response), scores(alone), rtol=0, atol=1e-5)


def test_a_cancelled_request_is_not_scored(served: Any) -> None:
    [response] = served.execute([Request([QUERY], [TEXTS], cancelled=True)])
    assert response.error.code == TritonError.CANCELLED


def test_a_failure_of_the_model_is_told_to_all_that_were_scored(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(pairs: Any) -> Any:
        raise BackendError("the device has gone")

    monkeypatch.setattr(served.model, "logits", broken)
    responses = served.execute([Request([QUERY], [TEXTS]), Request([QUERY], [[]]), Request([QUERY], [TEXTS])])
    assert [str(each.error) for each in responses[::2]] == ["the device has gone"] * 2
    assert "at least one passage" in str(responses[1].error)


def test_scores_that_are_nan_are_told_to_their_request_alone(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    [alone] = served.execute([Request([QUERY], [TEXTS])])
    whole = served.model.logits

    def overflowing(pairs: Any) -> Any:
        logits = whole(pairs)
        logits[[pair[1] == "overflow" for pair in pairs]] = np.nan
        return logits

    monkeypatch.setattr(served.model, "logits", overflowing)
    before, refused, after = served.execute(
        [Request([QUERY], [TEXTS]), Request([QUERY], [["fine", "overflow"]]), Request([QUERY], [TEXTS])]
    )
    assert "NaN or Inf in fp32" in str(refused.error)
    assert "1 of 2 pairs, the first of which is pair 1" in str(refused.error)
    for response in (before, after):
        np.testing.assert_allclose(scores(response), scores(alone), rtol=0, atol=1e-5)


def test_two_labels_give_what_rank_sorts_by(backend: Any, two_label_bundle: Path, tmp_path: Path) -> None:
    folder = write_python_model(Bundle.open(two_label_bundle), tmp_path, "two", Instances(), {})
    served = initialized(backend, folder, {"relevant_label": "0"})
    [response] = served.execute([Request([QUERY], [TEXTS])])
    served.finalize()
    with CrossEncoder(two_label_bundle, relevant_label=0) as model:
        ranked = {each["corpus_id"]: each["score"] for each in model.rank(QUERY, TEXTS)}
    np.testing.assert_allclose(scores(response)[0], [ranked[n] for n in range(len(TEXTS))], rtol=0, atol=1e-5)


def test_parameters_are_options_of_the_model(backend: Any, folder: Path) -> None:
    parameters = {"precision": "fp32", "backend": "onnxruntime", "threads": "1", "max_length": "20"}
    served = initialized(backend, folder, {**parameters, "EXECUTION_ENV_PATH": "/env.tar.gz"})
    assert (served.model.max_length, served.model.backend) == (20, "onnxruntime")
    served.finalize()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"thread": "1"}, "unknown parameter 'thread'; one of precision, backend, threads"),
        ({"threads": "two"}, "parameter 'threads' is 'two'; give a whole number"),
        ({"trust_engines": "yes"}, "parameter 'trust_engines' is 'yes'; give true or false"),
    ],
)
def test_a_parameter_that_is_no_option_is_named(
    backend: Any, folder: Path, parameters: dict[str, str], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        initialized(backend, folder, parameters)


def test_an_instance_on_a_gpu_asks_for_that_gpu(backend: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = {}
    monkeypatch.setattr(backend, "CrossEncoder", lambda path, **options: opened.update(path=path, **options))
    arguments = {"model_instance_kind": "GPU", "model_instance_device_id": "3"}
    initialized(backend, folder, {"precision": "fp16"}, **arguments)
    assert opened == {"path": folder / "1/bundle", "device": "cuda:3", "precision": "fp16"}
