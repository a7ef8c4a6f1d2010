"""`fetched` copies a store or a bundle from a URL to this node, once."""

import hashlib
from pathlib import Path
from typing import Any

from ..engine.errors import BackendError, StoreError
from ..engine.files.cache import ADVICE, cache_folder
from ..engine.files.lock import file_lock
from ..engine.files.publish import published_directory
from .folder import file_system, is_url


def fetched(place: str, description: str) -> Path:
    """Return the directory on this node that holds the content of `place`, a path or a URL of fsspec.

    A path is used as it is. The content of a URL is copied into this node's cache once, and other processes wait for the copy.
    The content of its `description`, `store.json` or `manifest.json`, identifies it, so that a store that was replaced is copied
    again. Raises StoreError for a URL that cannot be read, and BackendError if this user has no cache.
    """
    if not is_url(place):
        return Path(place)
    cache = cache_folder("fetched")
    if cache is None:
        raise BackendError(f"there is no folder to copy {place} to, since this user has no home directory: {ADVICE}")
    system, path = file_system(place)
    key = hashlib.sha256(place.encode() + described(place, description)).hexdigest()[:32]
    target = cache / key
    if not target.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with file_lock(cache / f"{key}.fetching", waiting=""):
            if not target.is_dir():
                _copy(system, path, target, place)
    return target


def described(place: str, description: str) -> bytes:
    """Return the content of a store's or a bundle's description file. Raises StoreError if it cannot be read."""
    try:
        if not is_url(place):
            return (Path(place) / description).read_bytes()
        system, path = file_system(place)
        content: bytes = system.cat_file(f"{path}/{description}")
    except BackendError:
        raise
    except Exception as error:  # any package may provide the file system and raise its own errors
        raise StoreError(f"{place}/{description} cannot be read ({type(error).__name__}: {error})") from error
    return content


def _copy(system: Any, path: str, target: Path, place: str) -> None:
    with published_directory(target) as partial:
        try:
            for file in system.find(path):
                copy = partial / str(file)[len(path) :].lstrip("/")
                copy.parent.mkdir(parents=True, exist_ok=True)
                system.get_file(file, str(copy))
        except Exception as error:
            raise StoreError(f"{place} cannot be copied to this node ({type(error).__name__}: {error})") from error
