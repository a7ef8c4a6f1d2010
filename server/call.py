"""`Call`: one request to a path that scores, from its headers to its answer."""

import itertools
import re
import time
from secrets import token_hex
from time import perf_counter
from typing import Any

from .dialects.body import Body, Context
from .dialects.job import Outcome
from .dialects.request_error import KINDS, RequestError, object_error, tei_error
from .http.answer import Answer, Headers
from .models.scoring import Run
from .models.served_model import ServedModel
from .routes import ScoringRoute

REQUEST_ID = re.compile(rb"[\w.:/+=@-]{1,128}")
_prefix, _numbers = token_hex(6), itertools.count(1)


class Call:
    """What is known of a request so far."""

    __slots__ = ("body", "headers", "id", "model", "outcome", "route", "run", "started", "status")

    def __init__(self, route: ScoringRoute, headers: dict[bytes, bytes]) -> None:
        """Take the headers by their names in lower case."""
        self.started = perf_counter()
        self.route = route
        self.headers = headers
        self.id = request_id(headers.get(b"x-request-id"))
        self.status = 200
        self.body: Body | None = None
        self.model: ServedModel | None = None
        self.run: Run | None = None
        self.outcome: Outcome | None = None

    def seconds_left(self, most: float) -> float:
        """Return how long the request may still take: `most` from its start, or what the header x-request-timeout says.

        Raises RequestError for a header that is no number of seconds.
        """
        asked = self.headers.get(b"x-request-timeout")
        if asked is not None:
            most = min(most, _seconds(asked))
        return most - (perf_counter() - self.started)

    def scored(self, outcome: Outcome, run: Run, model: ServedModel) -> Answer:
        """Return the answer with the scores."""
        assert self.body is not None
        self.outcome, self.run = outcome, run
        context = Context(
            id=self.id,
            created=int(time.time()),
            model=model.name,
            labels=model.labels,
            documents=self.route.documents,
            api_version=self.route.api_version,
        )
        headers = [(b"x-request-id", self.id.encode())]
        if self.body.tei:
            headers += self._tei_headers(run, outcome)
        return Answer(200, self.body.answer(outcome, context), headers=headers)

    def refused(self, refusal: RequestError, tei_validation_status: int) -> Answer:
        """Return the answer that says why there are no scores."""
        tei = self.route.tei or refusal.tei if self.body is None else self.body.tei
        self.status = tei_validation_status if tei and refusal.kind == "validation" else KINDS[refusal.kind].status
        headers = [(b"x-request-id", self.id.encode())]
        if refusal.retry_after is not None:
            headers.append((b"retry-after", b"%d" % refusal.retry_after))
        if refusal.kind == "unauthorized":
            headers.append((b"www-authenticate", b"Bearer"))
        return Answer(self.status, tei_error(refusal) if tei else object_error(refusal), headers=headers)

    def log_fields(self, *, texts: bool, trace: str | None) -> dict[str, Any]:
        """Return what the log says of the request."""
        fields: dict[str, Any] = {
            "id": self.id,
            "path": self.route.path,
            "status": self.status,
            "ms": round(1000 * (perf_counter() - self.started), 3),
        }
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

    def _tei_headers(self, run: Run, outcome: Outcome) -> Headers:
        total = perf_counter() - self.started
        return [
            (b"x-compute-type", b"cpu"),
            (b"x-compute-time", _ms(total)),
            (b"x-compute-characters", b"%d" % run.job.characters),
            (b"x-compute-tokens", b"%d" % outcome.tokens),
            (b"x-total-time", _ms(total)),
            (b"x-tokenization-time", _ms(run.tokenized - run.began)),
            (b"x-queue-time", _ms(run.began - run.accepted)),
            (b"x-inference-time", _ms(run.done - run.tokenized)),
        ]


def request_id(given: bytes | None) -> str:
    """Return the id that the client gave, if it is a plain one, or a new one."""
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
