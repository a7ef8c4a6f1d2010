"""The metrics that Prometheus reads. They are registered at the start, with fixed buckets and few labels.

`rate()` needs a value before an event. It would miss the first event of a series that begins with it, so every usual status of
every path begins at 0.

With several workers, prometheus_client keeps the metrics in files in the folder PROMETHEUS_MULTIPROC_DIR, and any worker can
report them all.
"""

import os
from collections.abc import Iterable, Sequence

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from .buffered_histogram import BufferedHistogram
from .dialects.job import Outcome
from .models.job_scorer import JobRun
from .models.served_model import ServedModel

disable_created_metrics()  # type: ignore[no-untyped-call]  # a creation time for each counter would double the number of series

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
TEXTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
TOKENS = (64, 256, 1024, 4096, 16384, 65536, 262144, 1048576)

REQUESTS = Counter(
    "crossrt_requests", "Requests that ended, by what the client saw; 499: it had left", ["path", "status"]
)
REQUEST_SECONDS = Histogram(
    "crossrt_request_seconds", "From a request's headers to its answer", ["path"], buckets=SECONDS
)
QUEUE_SECONDS = Histogram("crossrt_queue_seconds", "Waiting for tokenization", ["model"], buckets=SECONDS)
TOKENIZATION_SECONDS = Histogram("crossrt_tokenization_seconds", "Tokenization", ["model"], buckets=SECONDS)
SCORING_SECONDS = Histogram("crossrt_scoring_seconds", "From tokens to scores", ["model"], buckets=SECONDS)
REQUEST_TEXTS = Histogram("crossrt_request_texts", "Texts of a request", ["model"], buckets=TEXTS)
REQUEST_TOKENS = Histogram("crossrt_request_tokens", "Tokens of a request", ["model"], buckets=TOKENS)
TRUNCATED_TEXTS = Counter("crossrt_truncated_texts", "Texts that were truncated", ["model"])
TRUNCATED_TOKENS = Counter("crossrt_truncated_tokens", "Tokens that truncated texts lost", ["model"])
RELOADS = Counter("crossrt_reloads", "Bundles that were opened again", ["model", "outcome"])
IN_PROGRESS = Gauge("crossrt_requests_in_progress", "Requests without an answer yet", multiprocess_mode="livesum")
QUEUE_REQUESTS = Gauge(
    "crossrt_queue_requests", "Requests that were accepted and not scored", ["model"], multiprocess_mode="livesum"
)
QUEUE_TOKENS = Gauge(
    "crossrt_queue_tokens",
    "Tokens of requests that were accepted and not scored",
    ["model"],
    multiprocess_mode="livesum",
)
QUEUE_LIMIT = Gauge(
    "crossrt_queue_limit_tokens", "The limit of crossrt_queue_tokens", ["model"], multiprocess_mode="livesum"
)
TOKENS_PER_SECOND = Gauge(
    "crossrt_tokens_per_second", "Tokens scored in a second with work", ["model"], multiprocess_mode="livesum"
)
READY = Gauge("crossrt_ready", "1 where the last request or probe was scored", ["model"], multiprocess_mode="livemin")


class PathMetrics:
    """The metrics of one path."""

    def __init__(self, path: str, statuses: Iterable[int]) -> None:
        """Take the usual statuses of the path's answers. Others are registered when they first occur."""
        self._path = path
        self._seconds = BufferedHistogram(REQUEST_SECONDS.labels(path), SECONDS)
        self._counters = {status: REQUESTS.labels(path, str(status)) for status in sorted(statuses)}
        self._counts = dict.fromkeys(self._counters, 0)

    def count(self, status: int, seconds: float) -> None:
        """Count a request that ended."""
        self._counts[status] = self._counts.get(status, 0) + 1
        self._seconds.add(seconds)

    def flush(self) -> None:
        """Pass the counts to Prometheus."""
        self._seconds.flush()
        for status, count in self._counts.items():
            if status not in self._counters:
                self._counters[status] = REQUESTS.labels(self._path, str(status))
            self._counters[status].inc(count)
            self._counts[status] = 0


class ModelMetrics:
    """The metrics of one model."""

    def __init__(self, model: ServedModel) -> None:
        self._model, name = model, model.name
        self._queue_seconds = BufferedHistogram(QUEUE_SECONDS.labels(name), SECONDS)
        self._tokenization_seconds = BufferedHistogram(TOKENIZATION_SECONDS.labels(name), SECONDS)
        self._scoring_seconds = BufferedHistogram(SCORING_SECONDS.labels(name), SECONDS)
        self._texts = BufferedHistogram(REQUEST_TEXTS.labels(name), TEXTS)
        self._tokens = BufferedHistogram(REQUEST_TOKENS.labels(name), TOKENS)
        self._truncated_texts, self._truncated_tokens = TRUNCATED_TEXTS.labels(name), TRUNCATED_TOKENS.labels(name)
        self._reloads = {outcome: RELOADS.labels(name, outcome) for outcome in ("done", "failed")}
        self._gauges = [
            each.labels(name) for each in (QUEUE_REQUESTS, QUEUE_TOKENS, QUEUE_LIMIT, TOKENS_PER_SECOND, READY)
        ]

    def count(self, run: JobRun, outcome: Outcome) -> None:
        """Count a job that was scored."""
        self._queue_seconds.add(run.began - run.accepted)
        self._tokenization_seconds.add(run.tokenized - run.began)
        self._scoring_seconds.add(run.done - run.tokenized)
        self._texts.add(len(run.job.pairs))
        self._tokens.add(outcome.tokens)
        if outcome.cut:
            self._truncated_texts.inc(outcome.cut)
            self._truncated_tokens.inc(outcome.lost)

    def count_reload(self, outcome: str) -> None:
        """Count a reload that is `done` or `failed`."""
        self._reloads[outcome].inc()

    def refresh(self) -> None:
        """Pass the counts to Prometheus, and set the gauges to their present values."""
        for observed in (
            self._queue_seconds,
            self._tokenization_seconds,
            self._scoring_seconds,
            self._texts,
            self._tokens,
        ):
            observed.flush()
        queue = self._model.queue
        values = (queue.requests, queue.tokens, queue.limit, queue.tokens_per_second, self._model.failure is None)
        for gauge, value in zip(self._gauges, values, strict=True):
            gauge.set(value)


class CompatibilityGauges:
    """Gauges with the names of TEI and vLLM, for dashboards and autoscalers that were made for these servers.

    TEI queues each text separately, so `te_queue_size` counts texts. Its `te_batch_next_size` and `te_batch_next_tokens` are
    histograms of its batches (core/src/queue.rs), which this server does not see. vLLM has two gauges of requests
    (vllm/v1/metrics/loggers.py). There each pair is a request, here all pairs of an HTTP request are one.
    """

    def __init__(self, servers: Iterable[str], models: Sequence[ServedModel]) -> None:
        self._models = models
        self._texts = _gauge("te_queue_size", "Texts that wait for a batch", []) if "tei" in servers else None
        self._running = self._waiting = None
        if "vllm" in servers:
            labels = ["model_name", "engine"]
            self._running = _gauge("vllm:num_requests_running", "Requests of which a batch has begun", labels)
            self._waiting = _gauge("vllm:num_requests_waiting", "Requests of which no batch has begun", labels)

    def refresh(self) -> None:
        """Set the gauges to their present values."""
        if self._texts is not None:
            self._texts.set(sum(run.waiting_texts for model in self._models for run in model.runs))
        if self._running is not None and self._waiting is not None:
            for model in self._models:
                waiting = sum(run.waiting_texts == len(run.job.pairs) for run in model.runs)
                self._waiting.labels(model.name, "0").set(waiting)
                self._running.labels(model.name, "0").set(len(model.runs) - waiting)


def _gauge(name: str, says: str, labels: list[str]) -> Gauge:
    known = getattr(REGISTRY, "_names_to_collectors", {}).get(name)
    return known or Gauge(name, says, labels, multiprocess_mode="livesum")


def exposition() -> bytes:
    """Return the metrics of all workers in Prometheus' text format."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
