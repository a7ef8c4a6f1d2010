"""`HttpRequest`: one request, from its headers to its response."""

import itertools
import re
import time
from secrets import token_hex
from time import perf_counter
from typing import Any

from .dialects.body import Body, Context
from .dialects.job import Outcome
from .dialects.request_error import ERROR_KINDS, RequestError, either_error, object_error, tei_error
from .http.response import Headers, Response
from .models.job_scorer import JobRun
from .models.served_model import ServedModel
from .routes import ScoringRoute

REQUEST_ID = re.compile(rb"[\w.:/+=@-]{1,128}")
PATH_LOGGED, REASON_LOGGED = 200, 300
"""Most characters of a path and of a reason that are logged."""
_prefix, _numbers = token_hex(6), itertools.count(1)


class HttpRequest:
    """What is known of a request so far."""

    __slots__ = ("body", "headers", "id", "model", "outcome", "path", "reason", "route", "run", "started", "status")

    def __init__(self, path: str, route: ScoringRoute | None, headers: dict[bytes, bytes]) -> None:
        """Take the route of a scoring request, or None for other requests, and the headers by lower-case name."""
        self.started = perf_counter()
        self.path = path
        self.route = route
        self.headers = headers
        self.id = request_id(headers.get(b"x-request-id"))
        self.status = 200
        self.reason: str | None = None
        """Why the request was refused, for the log."""
        self.body: Body | None = None
        self.model: ServedModel | None = None
        self.run: JobRun | None = None
        self.outcome: Outcome | None = None

    def seconds_left(self, limit: float) -> float:
        """Return the seconds that the request may still take: `limit` from its start, or less with the header x-request-timeout.

        Raises RequestError for a header that is not a positive number.
        """
        asked = self.headers.get(b"x-request-timeout")
        if asked is not None:
            limit = min(limit, _seconds(asked))
        return limit - (perf_counter() - self.started)

    def scored_response(self, outcome: Outcome, run: JobRun, model: ServedModel) -> Response:
        """Return the response with the scores."""
        assert self.body is not None
        assert self.route is not None
        self.outcome, self.run = outcome, run
        context = Context(
            id=self.id,
            created=int(time.time()),
            model=model.name,
            labels=model.labels,
            documents=self.route.documents,
            api_version=self.route.api_version,
        )
        headers = self._tei_headers(run, outcome, model) if self.body.tei else ()
        return Response(200, self.body.encode_response(outcome, context), headers=headers)

    def error_response(self, refusal: RequestError, tei_validation_status: int) -> Response:
        """Return the response for an error, in the client's dialect as far as it is known."""
        tei = self._is_tei(refusal)
        self.status = (
            tei_validation_status if tei and refusal.kind == "validation" else ERROR_KINDS[refusal.kind].status
        )
        self.reason = refusal.logged
        headers: Headers = []
        if refusal.allow is not None:
            headers.append((b"allow", refusal.allow.encode()))
        if refusal.retry_after is not None:
            headers.append((b"retry-after", b"%d" % refusal.retry_after))
        if refusal.kind == "unauthorized":
            headers.append((b"www-authenticate", b"Bearer"))
        body = either_error if tei is None else tei_error if tei else object_error
        return Response(self.status, body(refusal), headers=headers)

    def _is_tei(self, refusal: RequestError) -> bool | None:
        """Tell whether the client's dialect is TEI's, or None if unknown.

        The body decides, then what is known of an invalid body, then the path.
        """
        if self.body is not None:
            return self.body.tei
        if refusal.tei is not None:
            return refusal.tei
        return False if self.route is None else self.route.tei

    def log_fields(self, *, texts: bool, trace: str | None) -> dict[str, Any]:
        """Return the fields of the request's log line."""
        fields: dict[str, Any] = {
            "id": self.id,
            "path": self.path[:PATH_LOGGED],
            "status": self.status,
            "ms": round(1000 * (perf_counter() - self.started), 3),
        }
        if self.reason is not None:
            fields["reason"] = self.reason[:REASON_LOGGED]
        if trace is not None:
            fields["trace"] = trace
        if self.model is not None:
            fields["model"] = self.model.name
        if self.run is not None and self.outcome is not None:
            run = self.run
            fields["texts"] = len(run.job.pairs)
            fields["tokens"], fields["truncated"] = self.outcome.tokens, self.outcome.cut
            for name, begin, end in (
                ("queue_ms", run.accepted, run.began),
                ("tokenization_ms", run.began, run.tokenized),
                ("scoring_ms", run.tokenized, run.done),
            ):
                fields[name] = round(1000 * (end - begin), 3)
        if texts and self.body is not None:
            fields["body"] = self.body
        return fields

    def _tei_headers(self, run: JobRun, outcome: Outcome, model: ServedModel) -> Headers:
        total = perf_counter() - self.started
        return [
            (b"x-compute-type", b"cpu" if model.model.device == "cpu" else b"gpu+optimized"),
            (b"x-compute-time", _ms(total)),
            (b"x-compute-characters", b"%d" % run.job.characters),
            (b"x-compute-tokens", b"%d" % outcome.tokens),
            (b"x-total-time", _ms(total)),
            (b"x-tokenization-time", _ms(run.tokenized - run.began)),
            (b"x-queue-time", _ms(run.began - run.accepted)),
            (b"x-inference-time", _ms(run.done - run.tokenized)),
        ]


def request_id(given: bytes | None) -> str:
    """Return the client's id, if it has only plain characters, or a new one."""
    if given is not None and REQUEST_ID.fullmatch(given):
        return given.decode()
    return f"{_prefix}-{next(_numbers):x}"


def _seconds(text: bytes) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise RequestError("validation", "the header x-request-timeout is no time; give seconds, more than 0")
    return seconds


def _ms(seconds: float) -> bytes:
    return b"%d" % round(1000 * seconds)
