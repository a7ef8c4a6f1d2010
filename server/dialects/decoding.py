"""`decoder_of` and `decode_rerank` decode the JSON of a request into the body of its dialect."""

import re
from collections.abc import Callable
from typing import TypeVar

import msgspec

from .body import Body
from .documents import Rerank
from .request_error import RequestError
from .tei import TeiRerank

ENUM_VALUE = re.compile(r"Invalid enum value .*?(?= - at `|$)", re.DOTALL)
"""The only message of msgspec that quotes what the client sent. The log should not hold that."""

Fields = TypeVar("Fields", bound=msgspec.Struct)


def decoder_of(kind: type[Fields]) -> Callable[[bytes], Fields]:
    """Return a function that decodes bodies of one kind. It raises RequestError for invalid JSON and fields of other types."""
    decode = msgspec.json.Decoder(kind).decode

    def read(body: bytes) -> Fields:
        try:
            return decode(body)
        except msgspec.ValidationError as error:
            words = str(error)
            logged = ENUM_VALUE.sub("Invalid enum value", words)
            raise RequestError("validation", f"{words}; see /openapi.json", logged=logged) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RequestError("malformed", f"the body is not JSON in UTF-8: {error}") from error
        except RecursionError as error:
            raise RequestError(
                "malformed", "the body is nested too deeply; no field needs more than three levels"
            ) from error

    return read


class _Peek(msgspec.Struct):
    texts: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_peek, _tei, _documents = decoder_of(_Peek), decoder_of(TeiRerank), decoder_of(Rerank)


def decode_rerank(body: bytes) -> Body:
    """Decode a body of `/rerank`: TEI's dialect if it has `texts`, otherwise that of `documents`. Raises RequestError."""
    tei = b'"texts"' in body and _peek(body).texts is not msgspec.UNSET
    try:
        return _tei(body) if tei else _documents(body)
    except RequestError as error:
        if error.kind == "validation":
            if not tei and b'"documents"' not in body:  # the decoder would ask only for `documents`
                needed = (
                    "an object with `query` and `texts`, or with `query` and `documents`, is needed; see /openapi.json"
                )
                raise RequestError("validation", needed) from error
            error.tei = tei
        raise
