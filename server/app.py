"""`App`: the ASGI application. `_score` takes a request from its bytes to its answer."""

import asyncio
import logging
from time import perf_counter
from typing import Any

from .dialects.request_error import RequestError
from .http.request_body import ClientGoneError, Receive, Send, read_body
from .http.response import Response
from .http_request import HttpRequest
from .management import ManagementEndpoints
from .request_log import RequestLog
from .routes import CLIENT_GONE, OTHER_PATHS, PUBLIC_PATHS, SCORING_ROUTES, ScoringRoute
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
        self.management = ManagementEndpoints(state)
        self._scoring = {route.path: route for route in SCORING_ROUTES}
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
            await self._serve(HttpRequest(path, route, dict(scope["headers"])), method, receive, send)
        finally:
            self.state.in_progress -= 1

    async def _serve(self, request: HttpRequest, method: str, receive: Receive, send: Send) -> None:
        """Answer a request, and record it in metrics, log and traces."""
        close = False
        try:
            response = await (
                self._manage(request, method) if request.route is None else self._score(request, request.route, receive)
            )
        except ClientGoneError:
            request.status, request.reason = CLIENT_GONE, "the client closed the connection"
            self._record(request)
            return
        except RequestError as refusal:
            response = self._error_response(request, refusal)
            close = refusal.kind in UNREAD
        except asyncio.CancelledError:
            if not self.state.draining:  # the code that runs this application cancelled the request
                request.status, request.reason = CLIENT_GONE, "the request was cancelled"
                self._record(request)
                raise
            # uvicorn cancels the remaining requests after --shutdown-timeout. Its own answer would be a bare 500.
            response = self._error_response(
                request, RequestError("unhealthy", "the server ended before the request was done (--shutdown-timeout)")
            )
        except Exception as error:
            logger.exception("request %s failed by a fault of the server", request.id)
            words = f"the server has a fault: {type(error).__name__}; its log has request {request.id}"
            response = self._error_response(request, RequestError("internal", words))
        response.headers = [*response.headers, (b"x-request-id", request.id.encode())]
        await response.send(send, close=close or self.state.draining, without_body=method == "HEAD")
        self._record(request)

    def _error_response(self, request: HttpRequest, refusal: RequestError) -> Response:
        return request.error_response(refusal, self.state.settings.tei_validation_status)

    async def _score(self, request: HttpRequest, route: ScoringRoute, receive: Receive) -> Response:
        """Return the response to a request for scores. Raises RequestError and ClientGoneError."""
        state, settings = self.state, self.state.settings
        state.keys.check(request.headers)
        body = await read_body(receive, request.headers, max_bytes=settings.max_payload)
        request.body = route.decode(body)
        job = request.body.job()
        model = request.model = await state.opened(request.body.model)
        seconds = request.seconds_left(settings.request_timeout)
        outcome, run = await model.score(job, receive=receive, seconds=seconds)
        return request.scored_response(outcome, run, model)

    async def _manage(self, request: HttpRequest, method: str) -> Response:
        """Return the response to any other request. Raises RequestError."""
        if request.path not in PUBLIC_PATHS:
            self.state.keys.check(request.headers)
        response = await self.management.respond(method, request.path)
        request.status = response.status
        return response

    def _record(self, request: HttpRequest) -> None:
        self._metrics.get(request.path, self._metrics[OTHER_PATHS]).count(
            request.status, perf_counter() - request.started
        )
        if request.model is not None and request.run is not None and request.outcome is not None:
            self.state.model_metrics[request.model.name].count(request.run, request.outcome)
        if self._log.wants(request.path, request.status):
            trace = trace_id(request.headers.get(b"traceparent"))
            self._log.write(request.log_fields(texts=self._log.texts, trace=trace), request.status)
        if request.route is not None:
            self.tracer.record(request.path, request.started, request.status, request.headers, request.run)
