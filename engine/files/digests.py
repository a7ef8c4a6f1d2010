"""`content_sha256`: the hash of a file's bytes, computed once as long as the file stays what it is.

What a cache keeps is found by these hashes and never by those that a manifest claims: a bundle from elsewhere can carry the
manifest of another one, and would otherwise fill the cache with scores that the other one then gives.
"""

import functools
import hashlib
import re
import time
from contextlib import suppress
from pathlib import Path

from .cache import cache_folder
from .publish import clear_abandoned, replaced_text

FOLDER = "digests"
KEPT = 1024
"""Hashes kept; the one that was computed longest ago goes first."""
SETTLED_NS = 2_000_000_000
"""A file that changed less than two seconds ago may change again without a new time: the clocks of file systems are coarse."""

_Identity = tuple[int, int, int, int, int]


def content_sha256(path: Path) -> str:
    """Return the sha256 of a file in hex. Raises OSError when it cannot be read.

    It is remembered by the file's device, inode, size and times, in this process and in the cache. An entry that is damaged is
    as good as none, and a cache that cannot be written is done without.
    """
    identity = _identity(path)
    return _remembered(path, identity) if time.time_ns() - max(identity[3:]) > SETTLED_NS else sha256_of(path)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file in hex, read in pieces."""
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
        found = entry.read_text(encoding="ascii").strip()
        if re.fullmatch("[0-9a-f]{64}", found):
            return found
    digest = sha256_of(path)
    if _identity(path) == identity:
        with suppress(OSError):
            _keep(entry, digest)
    return digest


def _identity(path: Path) -> _Identity:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


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
