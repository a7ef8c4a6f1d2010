"""`document` makes the OpenAPI description of the server from the table of routes and the types of its bodies."""

from typing import Any

import msgspec

from .. import __version__
from .dialects.body import Body
from .dialects.documents import Rerank
from .dialects.infinity import InfinityRerank
from .dialects.ranking import Ranking
from .dialects.request_error import EitherError, ObjectError, TeiError
from .dialects.scoring import ScoreBody
from .dialects.tei import TeiPredict, TeiRerank
from .routes import GET_PATHS, PROBES, PUBLIC_PATHS, RELOAD, SCORING_ROUTES, ScoringRoute

EXAMPLES: dict[type[Body], Any] = {
    TeiRerank: {"query": "how tall is k2", "texts": ["K2 is 8,611 metres high.", "Berlin is a city."]},
    Rerank: {"query": "how tall is k2", "documents": ["K2 is 8,611 metres high.", "Berlin is a city."], "top_n": 1},
    InfinityRerank: {"query": "how tall is k2", "documents": ["K2 is 8,611 metres high.", "Berlin is a city."]},
    ScoreBody: {"text_1": "how tall is k2", "text_2": ["K2 is 8,611 metres high.", "Berlin is a city."]},
    TeiPredict: {"inputs": [["how tall is k2", "K2 is 8,611 metres high."], ["how tall is k2", "Berlin is a city."]]},
    Ranking: {
        "query": {"text": "how tall is k2"},
        "passages": [{"text": "K2 is 8,611 metres high."}, {"text": "Berlin is a city."}],
    },
}
REFUSALS = {
    "400": "The body is not JSON, its list of texts is empty, or (but for TEI's dialect) a field is not allowed",
    "408": "The body did not arrive in time",
    "413": "The body is larger than --max-payload allows, or TEI's validation with --tei-validation-status 413",
    "415": "The body is compressed",
    "422": "TEI's dialect: a field is not allowed",
    "404": "The model is none of several that are served",
    "429": "Too many tokens wait for the model; Retry-After says in how many seconds to try again",
    "500": "A fault of the server",
    "503": "The model failed",
    "504": "The request was not scored in its time",
}


def document(*, needs_key: bool) -> dict[str, Any]:
    """Return the description as a value for JSON."""
    types = [
        *(t for route in SCORING_ROUTES for t in (*route.request_types, *route.response_types)),
        ObjectError,
        TeiError,
        EitherError,
    ]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    named = dict(zip(map(str, types), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in SCORING_ROUTES:
        paths.setdefault(route.path, {})["post"] = _scoring(route, named, needs_key)
    for path, summary in {**PROBES, **GET_PATHS}.items():
        paths.setdefault(path, {})["get"] = _reading(path, summary, named, needs_key)
    if needs_key:
        paths[RELOAD] = {"post": _reload(named)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "crossrt",
            "version": __version__,
            "description": "Reranking for clients of TEI, Cohere, Jina, Voyage, vLLM and NIM.",
        },
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _scoring(route: ScoringRoute, named: dict[str, Any], needs_key: bool) -> dict[str, Any]:
    errors = _errors(named, route)
    return {
        "summary": route.summary,
        "parameters": [
            _header("x-request-id", "Returned in the answer and written to the log", {"type": "string"}),
            _header(
                "x-request-timeout",
                "Seconds within which an answer is wanted",
                {"type": "number", "exclusiveMinimum": 0},
            ),
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": _any([named[str(each)] for each in route.request_types]),
                    "examples": {each.__name__: {"value": EXAMPLES[each]} for each in route.request_types},
                }
            },
        },
        "responses": {
            "200": _json("Scores", _any([named[str(each)] for each in route.response_types])),
            **{status: _json(description, _any(errors)) for status, description in sorted(REFUSALS.items())},
            **_unauthorized(errors, needs_key),
        },
        **_security(needs_key),
    }


def _errors(named: dict[str, Any], route: ScoringRoute) -> list[Any]:
    """Return the schemas of a route's errors, for each of its dialects and for requests whose dialect is not known."""
    forms: tuple[type[msgspec.Struct], ...] = (ObjectError,)
    if route.tei:
        forms = (TeiError,) if len(route.request_types) == 1 else (TeiError, ObjectError)
    elif route.tei is None:
        forms = (ObjectError, TeiError, EitherError)
    return [named[str(each)] for each in forms]


def _reading(path: str, summary: str, named: dict[str, Any], needs_key: bool) -> dict[str, Any]:
    responses: dict[str, Any] = {"200": _json("As said above", {})}
    if path in ("/metrics", "/docs", "/"):
        responses["200"]["content"] = {
            "text/plain" if path == "/metrics" else "text/html": {"schema": {"type": "string"}}
        }
    if path in PROBES:
        responses["503"] = _json("Not ready; the body says why", named[str(ObjectError)])
    closed = needs_key and path not in PUBLIC_PATHS
    errors = [named[str(ObjectError)]]
    return {"summary": summary, "responses": responses | _unauthorized(errors, closed), **_security(closed)}


def _reload(named: dict[str, Any]) -> dict[str, Any]:
    return {
        "summary": "Read the keys again, and open every bundle again; no request is lost",
        "responses": {
            "200": _json("What was done, by model", {"type": "object"}),
            "503": _json("What was done; a bundle could not be opened, and the old one goes on", {"type": "object"}),
            **_unauthorized([named[str(ObjectError)]], True),
        },
        **_security(True),
    }


def _any(schemas: list[Any]) -> Any:
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def _json(description: str, schema: Any) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _header(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "description": description, "schema": schema}


def _unauthorized(errors: list[Any], needed: bool) -> dict[str, Any]:
    return {"401": _json("The key is missing or wrong", _any(errors))} if needed else {}


def _security(needed: bool) -> dict[str, Any]:
    return {"security": [{"key": []}]} if needed else {}
