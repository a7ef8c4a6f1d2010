"""`Identity`: what the scores of a job depend on, stored with its parts."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from .. import __version__
from ..engine.bundle.bundle import Bundle
from ..engine.bundle.manifest import MANIFEST
from ..engine.errors import DataFileError
from ..engine.files.digests import content_sha256
from ..engine.files.record import parsed, record
from .folder import PARTS, Folder

FILE = "job.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a part's scores depend on, besides its rows. All parts of a folder have the same identity.

    `bundle` is the bundle's name and the digest of its content. `store` is the digest of the store's description, which has the
    tokenizer's digest, the counts of passages and tokens, and the sizes of all files. `options` are those that change scores or
    choose the backend and device. `block` and `cut` decide which rows make a part.
    """

    crossrt: str = __version__
    bundle: str
    store: str
    options: dict[str, Any]
    block: int
    cut: int

    def claim(self, folder: Folder) -> None:
        """Write this identity into a folder without parts, or compare it with the identity of the folder's parts.

        Raises DataFileError that names the differences, or if the stored identity is missing or cannot be read.
        """
        if not folder.names(PARTS):
            folder.write(FILE, (json.dumps(dataclasses.asdict(self), indent=1) + "\n").encode())
            return
        try:
            before = record(Identity, parsed(folder.read(FILE).decode()))
        except FileNotFoundError:
            raise DataFileError(
                f"{folder.place} has parts and no {FILE}, so nobody knows whose; give another folder of parts"
            ) from None
        except ValueError as error:
            raise DataFileError(
                f"{folder.place}/{FILE} cannot be used ({error}); give another folder of parts"
            ) from error
        old, new = before._flat(), self._flat()
        other = [
            f"{name} was {old.get(name)} and is {new.get(name)}"
            for name in {**old, **new}
            if old.get(name) != new.get(name)
        ]
        if other:
            raise DataFileError(
                f"{folder.place} holds parts of another job: {'; '.join(other)}. Give another folder of parts, or remove this one"
            )

    def _flat(self) -> dict[str, Any]:
        fields = dataclasses.asdict(self)
        return {**fields.pop("options"), **fields}


def bundle_digest(bundle: Bundle) -> str:
    """Return a digest of the content of a bundle's files, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name in [MANIFEST, *sorted(file.name for file in bundle.manifest.files)]:
        digest.update(f"{name}\0{content_sha256(bundle.folder / name)}\n".encode())
    return digest.hexdigest()[:16]


def store_digest(description: bytes) -> str:
    """Return a digest of `store.json`, 16 hexadecimal digits."""
    return hashlib.sha256(description).hexdigest()[:16]
