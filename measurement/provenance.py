"""`Provenance`: the origin of data."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..engine.errors import DataFileError
from ..engine.files.digests import sha256_of
from ..engine.files.source import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """The name of a file without its folder, or of a data set, and the sha256 of its content in hex.

    The sha256 is None for the passages of a data set, since reading all of them would take too long.
    """

    name: str
    sha256: str | None

    @classmethod
    def of_file(cls, path: Path) -> "Provenance":
        """Return a file's name and sha256. Raises DataFileError if it cannot be read."""
        try:
            return cls(name=path.name, sha256=sha256_of(path))
        except OSError as error:
            raise DataFileError(f"{path} cannot be read ({error.strerror})") from error

    @classmethod
    def of_source(cls, source: Source) -> "Provenance":
        """Return the name and the sha256 of a source. Raises DataFileError if it cannot be read."""
        return cls(name=source.short_name, sha256=source.sha256())

    @staticmethod
    def digest(content: Any) -> str:
        """Return the sha256 in hex of a value's JSON."""
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()
