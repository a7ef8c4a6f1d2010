"""`App`: the ASGI application. `_score` follows one request from its bytes to its answer."""

import logging
from time import perf_counter
from typing import Any

from .call import Call
from .dialects.request_error import RequestError
from .http.answer import Answer
from .http.request_body import ClientGoneError, Receive, Send, read_body
from .information import Information
from .request_log import RequestLog
from .routes import OPEN, SCORING
from .state import State
from .tracing import open_tracer, trace_id

logger = logging.getLogger("crossrt.server")

CLIENT_GONE = 499
"""The status that logs and metrics have for a client that left, as in nginx."""


class App:
    """Answers requests. Everything runs in the event loop's thread, but for tokenization and scoring."""

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
            # Clients join the path to an address that ends in a slash, as Weaviate does.
            path = "/" + scope["path"].lstrip("/")
            route = self._scoring.get(path)
            if route is not None and scope["method"] == "POST":
                await self._serve(Call(route, dict(scope["headers"])), receive, send)
            else:
                await self._inform(path, scope, send)
        finally:
            self.state.in_progress -= 1

    async def _serve(self, call: Call, receive: Receive, send: Send) -> None:
        """Answer a request to score, and account for it."""
        settings = self.state.settings
        try:
            answer = await self._score(call, receive)
            await answer.send(send, close=self.state.draining)
        except RequestError as refusal:
            answer = call.refused(refusal, settings.tei_validation_status)
            close = self.state.draining or refusal.kind == "too_large"
            await answer.send(send, close=close)
        except ClientGoneError:
            call.status = CLIENT_GONE
        except Exception as error:
            logger.exception("request %s failed by a fault of the server", call.id)
            fault = RequestError(
                "internal", f"the server has a fault: {type(error).__name__}; its log has request {call.id}"
            )
            await call.refused(fault, settings.tei_validation_status).send(send)
        self._account(call)

    async def _score(self, call: Call, receive: Receive) -> Answer:
        """Return the scores that a request asks for. Raises RequestError and ClientGoneError."""
        state, settings = self.state, self.state.settings
        state.keys.check(call.headers)
        body = await read_body(receive, call.headers, most=settings.max_payload)
        call.body = call.route.read(body)
        job = call.body.job()
        model = call.model = state.model(call.body.model)
        seconds = call.seconds_left(settings.request_timeout)
        outcome, run = await model.score(job, receive=receive, seconds=seconds)
        return call.scored(outcome, run, model)

    def _account(self, call: Call) -> None:
        self._metrics[call.route.path].count(call.status, perf_counter() - call.started)
        if call.model is not None and call.run is not None and call.outcome is not None:
            self.state.model_metrics[call.model.name].count(call.run, call.outcome)
        if self._log.wants(call.status):
            trace = trace_id(call.headers.get(b"traceparent"))
            self._log.write(call.log_fields(texts=self._log.texts, trace=trace))
        self.tracer.record(call.route.path, call.started, call.status, call.headers, call.run)

    async def _inform(self, path: str, scope: dict[str, Any], send: Send) -> None:
        """Answer a request that scores nothing."""
        started, method = perf_counter(), scope["method"]
        try:
            if path not in OPEN:
                self.state.keys.check(dict(scope["headers"]))
            answer = await self.information.answer(method, path)
        except RequestError as refusal:
            answer = self.information.refused(refusal, path)
        await answer.send(send, close=self.state.draining, without_body=method == "HEAD")
        self._metrics.get(path, self._metrics["other"]).count(answer.status, perf_counter() - started)
