"""`App`: the ASGI application. `_score` takes a request from its bytes to its answer."""

import asyncio
import logging
from time import perf_counter
from typing import Any

from .call import Call
from .dialects.request_error import RequestError
from .http.answer import Answer
from .http.request_body import ClientGoneError, Receive, Send, read_body
from .information import Information
from .request_log import RequestLog
from .routes import CLIENT_GONE, OPEN, OTHER, SCORING, ScoringRoute
from .state import State
from .tracing import open_tracer, trace_id

logger = logging.getLogger("crossrt.server")

UNREAD = ("too_large", "slow_body")
"""Errors after which the rest of a body may still arrive, so that the connection cannot be reused."""


class App:
    """Answers requests. Everything runs in the event loop's thread, except tokenization and scoring."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.tracer = open_tracer(state.settings.otlp_endpoint)
        self._log = RequestLog(state.settings)
        self.information = Information(state)
        self._scoring = {route.path: route for route in SCORING}
        self._metrics = state.path_metrics

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http":
            return
        self.state.in_progress += 1
        try:
            # Some clients, such as Weaviate, append the path to an address that ends in a slash.
            path, method = "/" + scope["path"].lstrip("/"), scope["method"]
            route = self._scoring.get(path) if method == "POST" else None
            await self._serve(Call(path, route, dict(scope["headers"])), method, receive, send)
        finally:
            self.state.in_progress -= 1

    async def _serve(self, call: Call, method: str, receive: Receive, send: Send) -> None:
        """Answer a request, and record it in metrics, log and traces."""
        close = False
        try:
            answer = await (
                self._inform(call, method) if call.route is None else self._score(call, call.route, receive)
            )
        except ClientGoneError:
            call.status, call.reason = CLIENT_GONE, "the client closed the connection"
            self._account(call)
            return
        except RequestError as refusal:
            answer = self._refused(call, refusal)
            close = refusal.kind in UNREAD
        except asyncio.CancelledError:
            if not self.state.draining:  # the code that runs this application cancelled the request
                call.status, call.reason = CLIENT_GONE, "the request was cancelled"
                self._account(call)
                raise
            # uvicorn cancels the remaining requests after --shutdown-timeout. Its own answer would be a bare 500.
            answer = self._refused(
                call, RequestError("unhealthy", "the server ended before the request was done (--shutdown-timeout)")
            )
        except Exception as error:
            logger.exception("request %s failed by a fault of the server", call.id)
            words = f"the server has a fault: {type(error).__name__}; its log has request {call.id}"
            answer = self._refused(call, RequestError("internal", words))
        answer.headers = [*answer.headers, (b"x-request-id", call.id.encode())]
        await answer.send(send, close=close or self.state.draining, without_body=method == "HEAD")
        self._account(call)

    def _refused(self, call: Call, refusal: RequestError) -> Answer:
        return call.refused(refusal, self.state.settings.tei_validation_status)

    async def _score(self, call: Call, route: ScoringRoute, receive: Receive) -> Answer:
        """Return the answer to a request for scores. Raises RequestError and ClientGoneError."""
        state, settings = self.state, self.state.settings
        state.keys.check(call.headers)
        body = await read_body(receive, call.headers, most=settings.max_payload)
        call.body = route.read(body)
        job = call.body.job()
        model = call.model = await state.opened(call.body.model)
        seconds = call.seconds_left(settings.request_timeout)
        outcome, run = await model.score(job, receive=receive, seconds=seconds)
        return call.scored(outcome, run, model)

    async def _inform(self, call: Call, method: str) -> Answer:
        """Return the answer to any other request. Raises RequestError."""
        if call.path not in OPEN:
            self.state.keys.check(call.headers)
        answer = await self.information.answer(method, call.path)
        call.status = answer.status
        return answer

    def _account(self, call: Call) -> None:
        self._metrics.get(call.path, self._metrics[OTHER]).count(call.status, perf_counter() - call.started)
        if call.model is not None and call.run is not None and call.outcome is not None:
            self.state.model_metrics[call.model.name].count(call.run, call.outcome)
        if self._log.wants(call.path, call.status):
            trace = trace_id(call.headers.get(b"traceparent"))
            self._log.write(call.log_fields(texts=self._log.texts, trace=trace), call.status)
        if call.route is not None:
            self.tracer.record(call.path, call.started, call.status, call.headers, call.run)
