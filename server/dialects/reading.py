"""`read`: the JSON of a request as the body of its dialect."""

from collections.abc import Callable
from typing import TypeVar

import msgspec

from .body import Body
from .documents import Rerank
from .request_error import RequestError
from .tei import TeiRerank

Fields = TypeVar("Fields", bound=msgspec.Struct)


def reader(kind: type[Fields]) -> Callable[[bytes], Fields]:
    """Return a function that reads bodies of one kind. It raises RequestError for what is not JSON, and for other types."""
    decode = msgspec.json.Decoder(kind).decode

    def read(body: bytes) -> Fields:
        try:
            return decode(body)
        except msgspec.ValidationError as error:
            raise RequestError("validation", f"{error}; see /openapi.json") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RequestError("malformed", f"the body is not JSON in UTF-8: {error}") from error
        except RecursionError as error:
            raise RequestError(
                "malformed", "the body is nested too deeply; no field needs more than three levels"
            ) from error

    return read


class _Peek(msgspec.Struct):
    texts: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_peek, _tei, _documents = reader(_Peek), reader(TeiRerank), reader(Rerank)


def read_rerank(body: bytes) -> Body:
    """Read what `/rerank` takes: with `texts` it is TEI's, with `documents` that of all others. Raises RequestError."""
    if b'"texts"' not in body or _peek(body).texts is msgspec.UNSET:
        return _documents(body)
    try:
        return _tei(body)
    except RequestError as error:
        error.tei = True
        raise
