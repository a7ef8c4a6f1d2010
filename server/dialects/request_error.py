"""`RequestError`: why a request gets no scores, and the JSON in which clients read that."""

from dataclasses import dataclass

import msgspec


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """A kind of error: its HTTP status, and its name in TEI (`error_type`) and OpenAI-like servers (`type`)."""

    status: int
    tei: str
    openai: str


ERROR_KINDS = {
    "validation": ErrorKind(400, "Validation", "invalid_request_error"),
    "malformed": ErrorKind(400, "Validation", "invalid_request_error"),
    "empty": ErrorKind(400, "Empty", "invalid_request_error"),
    "unauthorized": ErrorKind(401, "Unauthorized", "authentication_error"),
    "not_found": ErrorKind(404, "NotFound", "not_found_error"),
    "method": ErrorKind(405, "Validation", "invalid_request_error"),
    "slow_body": ErrorKind(408, "Timeout", "timeout_error"),
    "too_large": ErrorKind(413, "Validation", "invalid_request_error"),
    "encoding": ErrorKind(415, "Validation", "invalid_request_error"),
    "overloaded": ErrorKind(429, "Overloaded", "rate_limit_error"),
    "internal": ErrorKind(500, "Backend", "server_error"),
    "unhealthy": ErrorKind(503, "Unhealthy", "server_error"),
    "deadline": ErrorKind(504, "Timeout", "timeout_error"),
}
"""The kinds of errors by name. In TEI's dialect `validation` has the status 422, or 413 as in TEI until version 1.8."""


class RequestError(Exception):
    """A request that is refused or has failed. The message is for the client: what happened, what is allowed, what to do.

    `retry_after` is in seconds and becomes the header Retry-After. `allow` becomes the header Allow. `logged` replaces the
    message in the log if the message quotes a value that the client sent. `tei` tells whether a request to a path of several
    dialects was TEI's, or is None if that is not known, because the body was not read or is not JSON.
    """

    tei: bool | None = None

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        retry_after: int | None = None,
        allow: str | None = None,
        logged: str | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.retry_after = retry_after
        self.allow = allow
        self.logged = message if logged is None else logged

    @property
    def status(self) -> int:
        """The HTTP status in all dialects, except that `validation` has another one in TEI's dialect."""
        return ERROR_KINDS[self.kind].status


class TeiError(msgspec.Struct):
    """The error of text-embeddings-inference."""

    error: str
    error_type: str


class EitherError(msgspec.Struct):
    """An error that TEI's clients and most others can read, for requests whose dialect is not known.

    TEI's clients print `error` and `error_type`, so `error` is a text here. Cohere's, Jina's and Voyage's read `message` and
    `detail`. Only OpenAI's `error.message` is missing.
    """

    error: str
    error_type: str
    message: str
    detail: str


class OpenAIError(msgspec.Struct):
    """The error of OpenAI, vLLM, Infinity and llama.cpp."""

    message: str
    type: str
    param: str | None
    code: int


class ObjectError(msgspec.Struct):
    """The error of all other clients in one object: vLLM's read `error`, Cohere's `message`, Jina's and Voyage's `detail`."""

    error: OpenAIError
    message: str
    detail: str


def tei_error(refusal: RequestError) -> bytes:
    """Return the body of an error in TEI's dialect."""
    return msgspec.json.encode(TeiError(refusal.message, ERROR_KINDS[refusal.kind].tei))


def either_error(refusal: RequestError) -> bytes:
    """Return the body of an error if the dialect is not known."""
    words = refusal.message
    return msgspec.json.encode(EitherError(words, ERROR_KINDS[refusal.kind].tei, words, words))


def object_error(refusal: RequestError) -> bytes:
    """Return the body of an error in the dialects that send `documents`."""
    kind = ERROR_KINDS[refusal.kind]
    error = OpenAIError(refusal.message, kind.openai, None, kind.status)
    return msgspec.json.encode(ObjectError(error, refusal.message, refusal.message))
