"""`ApiKeys` checks the keys that clients send. A file has one key per line."""

import hashlib
import hmac
from collections.abc import Mapping
from pathlib import Path

from ...engine.errors import OptionError
from ..dialects.request_error import RequestError


class ApiKeys:
    """Checks keys. Without a file every client may call."""

    def __init__(self, file: Path | None) -> None:
        """Read the file. Raises OptionError for a file that cannot be read or holds no key."""
        self._file = file
        self._digests: list[bytes] = []
        self.reload()

    @property
    def required(self) -> bool:
        """Whether clients need a key."""
        return self._file is not None

    def reload(self) -> None:
        """Read the file again. If that raises OptionError, the keys stay the same."""
        if self._file is None:
            return
        try:
            lines = self._file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError(f"--api-keys {self._file} cannot be read: {error}") from error
        keys = [key for key in map(str.strip, lines) if key and not key.startswith("#")]
        if not keys:
            raise OptionError(f"--api-keys {self._file} holds no key; write one a line")
        self._digests = [_digest(key.encode()) for key in keys]

    def check(self, headers: Mapping[bytes, bytes]) -> None:
        """Raise RequestError unless the headers hold one of the keys, as `Authorization: Bearer KEY` or `X-API-Key: KEY`.

        This takes the same time for every wrong key, since the digest is compared with all keys in constant time.
        """
        if self._file is None:
            return
        scheme, _, bearer = headers.get(b"authorization", b"").partition(b" ")
        keys = (headers.get(b"x-api-key", b""), bearer if scheme.lower() == b"bearer" else b"")
        # A client that has both may have one of them for a gateway.
        given = [_digest(key) for key in map(bytes.strip, keys) if key]
        if not given:
            raise RequestError("unauthorized", "this server needs a key: send it as `Authorization: Bearer KEY`")
        known = False
        for each in self._digests:
            for digest in given:
                known |= hmac.compare_digest(digest, each)
        if not known:
            raise RequestError("unauthorized", "this key is not one of the server's")


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
