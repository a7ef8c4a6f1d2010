"""What the bodies of each dialect ask for, and how results are written for their clients."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

for package in ("msgspec", "uvicorn", "prometheus_client"):
    pytest.importorskip(package, reason="crossrt[serve] is not installed")

from prometheus_client import REGISTRY

from crossrt.engine.text.windows import Windows
from crossrt.server.dialects.body import Body, Context
from crossrt.server.dialects.job import Job, Outcome
from crossrt.server.dialects.request_error import RequestError
from crossrt.server.http_request import HttpRequest
from crossrt.server.metrics import ModelMetrics
from crossrt.server.models.token_queue import TokenQueue
from crossrt.server.routes import SCORING_ROUTES

BODIES: dict[str, Any] = {
    "/rerank": {"query": "q", "texts": ["a", "b"]},
    "/v1/rerank": {"query": "q", "documents": ["a", "b"]},
    "/score": {"text_1": "q", "text_2": ["a", "b"]},
    "/predict": {"inputs": [["q", "a"], ["q", "b"]]},
    "/v1/ranking": {"query": {"text": "q"}, "passages": [{"text": "a"}, {"text": "b"}]},
}


def body(path: str, **fields: Any) -> Body:
    route = next(route for route in SCORING_ROUTES if route.path == path)
    return route.decode(json.dumps({**BODIES[path], **fields}).encode())


def answer(body: Body, outcome: Outcome, labels: tuple[str, ...] = ("LABEL_0",)) -> Any:
    context = Context(id="i", created=1, model="m", labels=labels, documents=False, api_version="1")
    return json.loads(body.encode_response(outcome, context))


@pytest.mark.parametrize(
    ("path", "fields", "scores"),
    [
        ("/rerank", {}, "sigmoid"),
        ("/rerank", {"raw_scores": True}, "raw"),
        ("/v1/rerank", {}, "sigmoid"),
        ("/v1/rerank", {"use_activation": True, "raw_scores": False}, "sigmoid"),
        ("/v1/rerank", {"use_activation": False}, "raw"),
        ("/v1/rerank", {"raw_scores": True}, "raw"),
        ("/score", {}, "model"),
        ("/score", {"use_activation": True}, "model"),
        ("/score", {"use_activation": False}, "raw"),
        ("/predict", {}, "labels"),
        ("/predict", {"raw_scores": True}, "raw_labels"),
        ("/v1/ranking", {}, "raw"),
    ],
)
def test_each_dialect_asks_for_its_scores(path: str, fields: dict[str, Any], scores: str) -> None:
    assert body(path, **fields).job().scores == scores


@pytest.mark.parametrize(
    ("path", "field", "values"),
    [
        ("/rerank", "truncate", {None: None, True: True, False: False}),
        ("/predict", "truncate", {None: None, True: True, False: False}),
        ("/v1/rerank", "truncation", {None: None, True: True, False: False}),
        ("/score", "truncation", {None: None, True: True, False: False}),
        ("/v1/ranking", "truncate", {None: None, "END": True, "NONE": False}),
    ],
)
def test_truncation_that_is_not_mentioned_is_the_servers_setting(path: str, field: str, values: Any) -> None:
    assert body(path).job().truncate is None
    for value, truncate in values.items():
        assert body(path, **{field: value}).job().truncate is truncate


@pytest.mark.parametrize(("window", "stride"), [(1, 1), (2, 1), (3, 1), (512, 256)])
def test_windows_overlap_by_half_and_move_by_a_token_at_least(window: int, stride: int) -> None:
    assert body("/v1/rerank", window=window).job().windows == Windows(length=window, stride=stride)


@pytest.mark.parametrize(
    ("documents", "fields"),
    [([{"a": "x", "b": 1}], ["a", "b"]), ([{"a": None}], ["a"]), (["x", {"a": "x"}], ["b"]), ([{"text": ["x"]}], None)],
)
def test_fields_that_are_scored_are_texts(documents: list[Any], fields: list[str] | None) -> None:
    with pytest.raises(RequestError, match=f"`documents.{len(documents) - 1}.` has no text in `") as refused:
        body("/v1/rerank", documents=documents, rank_fields=fields).job()
    assert refused.value.logged == f"`documents[{len(documents) - 1}]` has no text in the fields that are scored"


def test_voyages_list_is_only_for_requests_with_its_field() -> None:
    outcome = Outcome(tokens=9, relevance=[1.0, 2.0], scores=[0.1, 0.2])
    assert "data" not in answer(body("/v1/rerank", top_n=1), outcome)
    assert "data" not in answer(body("/v1/rerank", top_n=1, top_k=2), outcome)
    found = answer(body("/v1/rerank", top_k=1), outcome)
    assert found["data"] == [{"index": 1, "relevance_score": 0.2}]
    assert len(found["results"]) == 1


def test_equal_scores_keep_the_order_of_the_texts() -> None:
    outcome = Outcome(tokens=9, relevance=[1.0, 3.0, 1.0, 3.0, 2.0], scores=[0.1, 0.3, 0.1, 0.3, 0.2])
    assert [row for row, _ in outcome.best(None)] == [1, 3, 4, 0, 2]
    assert outcome.best(2) == [(1, 0.3), (3, 0.3)]


def test_labels_are_named_and_the_best_is_first() -> None:
    outcome = Outcome(tokens=9, labels=[[0.2, 0.7, 0.1], [0.5, 0.1, 0.4]])
    first, second = answer(body("/predict"), outcome, ("no", "yes", "maybe"))
    assert [each["label"] for each in first] == ["yes", "no", "maybe"]
    assert [each["score"] for each in second] == [0.5, 0.4, 0.1]
    single = body("/predict", inputs=["q", "a"])
    assert answer(single, Outcome(tokens=9, labels=[[0.2, 0.8]]), ("no", "yes"))[0] == {"label": "yes", "score": 0.8}


def run_of(job: Job) -> Any:
    """A run that waited for 0.25 s, was tokenized in 0.5 s and scored in 1 s."""
    return SimpleNamespace(job=job, accepted=1.0, began=1.25, tokenized=1.75, done=2.75)


def test_the_parts_of_a_request_are_logged_and_counted_each_for_itself() -> None:
    job = body("/rerank").job()
    run, outcome = run_of(job), Outcome(tokens=9, relevance=[1.0, 2.0], scores=[0.1, 0.2], cut=2, lost=30)
    call = HttpRequest("/rerank", None, {})
    call.model, call.run, call.outcome = SimpleNamespace(name="of-dialects"), run, outcome  # type: ignore[assignment]
    fields = call.log_fields(texts=True, trace="t")
    assert 0 <= fields.pop("ms") < 1000
    assert fields.pop("id") == call.id
    assert fields == {
        "path": "/rerank",
        "status": 200,
        "trace": "t",
        "model": "of-dialects",
        "texts": 2,
        "tokens": 9,
        "truncated": 2,
        "queue_ms": 250.0,
        "tokenization_ms": 500.0,
        "scoring_ms": 1000.0,
    }
    model: Any = SimpleNamespace(name="of-dialects", queue=TokenQueue(7), failure=None)
    metrics = ModelMetrics(model)
    metrics.count(run, outcome)
    metrics.refresh()
    names = {
        "queue_seconds_sum": 0.25,
        "tokenization_seconds_sum": 0.5,
        "scoring_seconds_sum": 1.0,
        "request_texts_sum": 2,
        "request_tokens_sum": 9,
        "truncated_texts_total": 2,
        "truncated_tokens_total": 30,
        "queue_limit_tokens": 7,
        "ready": 1,
    }
    labels = {"model": "of-dialects"}
    assert {name: REGISTRY.get_sample_value(f"crossrt_{name}", labels) for name in names} == names
    model.failure = "broken"
    metrics.refresh()
    assert REGISTRY.get_sample_value("crossrt_ready", labels) == 0
