"""`content_sha256`: the sha256 of a file, computed once until the file changes. Other hashes are computed each time.

Caches use these hashes in their keys, never those of a manifest. Otherwise a bundle with the manifest of another bundle could
store its compiled model under the other bundle's key, and the other bundle would give wrong scores.
"""

import functools
import hashlib
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from .cache import cache_folder
from .publish import clear_abandoned, replaced_text

FOLDER = "digests"
KEPT = 1024
"""Hashes kept, in this process and in the cache. The oldest are deleted first."""
SETTLED_NS = 2_000_000_000
"""Age of a file below which its hash is not remembered. File systems have coarse clocks: a file that changed less than two
seconds ago may change again and keep its time."""

_Identity = tuple[int, int, int, int, int]


def content_sha256(path: Path) -> str:
    """Return the sha256 of a file in hex. Raises OSError if it cannot be read.

    The hash is remembered by the file's device, inode, size and times, in this process and in the cache. A damaged entry is
    ignored, and so is a cache that cannot be written.
    """
    identity = _identity(path)
    return _remembered(path, identity) if time.time_ns() - max(identity[3:]) > SETTLED_NS else sha256_of(path)


def texts_sha256(texts: Iterable[str]) -> str:
    """Return a sha256 of texts in hex. The lengths are hashed too, so ("ab", "c") and ("a", "bc") have different hashes."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file in hex, reading 1 MiB at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


@functools.lru_cache(maxsize=KEPT)
def _remembered(path: Path, identity: _Identity) -> str:
    folder = cache_folder(FOLDER)
    if folder is None:
        return sha256_of(path)
    entry = folder / hashlib.sha256(repr(identity).encode()).hexdigest()[:32]
    with suppress(OSError, ValueError):
        stored = entry.read_text(encoding="ascii").strip()
        if re.fullmatch("[0-9a-f]{64}", stored):
            return stored
    digest = sha256_of(path)
    if _identity(path) == identity:
        with suppress(OSError):
            _keep(entry, digest)
    return digest


def _identity(path: Path) -> _Identity:
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _keep(entry: Path, digest: str) -> None:
    entry.parent.mkdir(parents=True, exist_ok=True)
    clear_abandoned(entry.parent)
    with replaced_text(entry) as file:
        file.write(f"{digest}\n")
    entries = [each for each in entry.parent.iterdir() if not each.name.startswith(".")]
    if len(entries) > KEPT:
        entries.sort(key=lambda each: each.stat().st_mtime)
        for old in entries[: len(entries) - KEPT * 3 // 4]:
            old.unlink(missing_ok=True)
