"""`fetched`: a store or a bundle on this node, copied from a URL once."""

import hashlib
from pathlib import Path
from typing import Any

from ..engine.errors import BackendError, StoreError
from ..engine.files.cache import ADVICE, cache_folder
from ..engine.files.lock import held
from ..engine.files.publish import published_directory
from .folder import file_system, is_url


def fetched(place: str, description: str) -> Path:
    """Return the directory on this node that holds what lies at `place`, a path or a URL of fsspec.

    A path is used where it is. What a URL names is copied into this node's cache, once: other processes wait for the copy. Its
    `description`, `store.json` or `manifest.json`, decides whether it is the same; a store that was replaced is copied again.
    Raises StoreError for a URL that cannot be read, and BackendError where this user has no cache.
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
        with held(cache / f"{key}.fetching", waiting=""):
            if not target.is_dir():
                _copy(system, path, target, place)
    return target


def described(place: str, description: str) -> bytes:
    """Return the content of a store's or a bundle's description. Raises StoreError when it cannot be read."""
    try:
        if not is_url(place):
            return (Path(place) / description).read_bytes()
        system, path = file_system(place)
        content: bytes = system.cat_file(f"{path}/{description}")
    except BackendError:
        raise
    except Exception as error:  # of the file system, which may be any package's
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
