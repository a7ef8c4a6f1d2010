"""`Folder` holds files that every node sees, in a directory or in an object store."""

import posixpath
from pathlib import Path
from typing import Any

from ..engine.errors import BackendError
from ..engine.files.publish import clear_abandoned, replaced

ROWS, PARTS, BEGUN = "rows", "parts", "begun"
"""Folders of a job: the rows of blocks that have no part yet, the parts, and for each block an empty file per attempt."""


def is_url(place: str) -> bool:
    """Tell whether a place is a URL, such as `s3://bucket/folder` or `file:///mnt/folder`, and not a path."""
    return "://" in place


def file_system(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the path in it. Raises BackendError if a package for it is missing."""
    try:
        import fsspec

        # A cached listing would lack files that other nodes have written.
        system, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        raise BackendError(f"{url} needs a package that is missing ({error}); install it on every node") from error
    except ValueError as error:
        raise BackendError(f"{url} cannot be opened: {error}") from error
    return system, str(path)


class Folder:
    """A folder whose files appear whole or not at all. Any number of processes on any nodes may use it.

    In a directory, or at its URL `file://`, a file is written under another name, flushed to the disk and renamed. In an object
    store a file is one object, which the store publishes when it has all of its bytes.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self._system: Any = None
        self._root = Path(place)
        if is_url(place):
            system, path = file_system(place)
            self._root = Path(path)
            if "file" not in system.protocol:  # the file system of file:// writes files in place
                self._system = system

    @property
    def local(self) -> Path | None:
        """The directory, or None in an object store."""
        return None if self._system is not None else self._root

    def make(self) -> None:
        """Create the folder, unless it exists."""
        if self._system is None:
            self._root.mkdir(parents=True, exist_ok=True)
        else:
            self._system.makedirs(str(self._root), exist_ok=True)

    def read(self, name: str) -> bytes:
        """Return the content of a file. Raises FileNotFoundError."""
        if self._system is None:
            return (self._root / name).read_bytes()
        content: bytes = self._system.cat_file(self._path(name))
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write a file, or replace it."""
        if self._system is not None:
            self._system.makedirs(posixpath.dirname(self._path(name)), exist_ok=True)
            self._system.pipe_file(self._path(name), content)
            return
        target = self._root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with replaced(target, clear=False) as file:  # a search for each of n files would list n files
            file.write(content)

    def clear_abandoned(self, name: str) -> None:
        """Remove what killed writers left in a subfolder. An object store keeps nothing of it."""
        if self._system is None:
            clear_abandoned(self._root / name)

    def exists(self, name: str) -> bool:
        """Tell whether a file exists now."""
        if self._system is None:
            return (self._root / name).exists()
        return bool(self._system.exists(self._path(name)))

    def names(self, under: str) -> set[str]:
        """Return the names of the files in a subfolder, without hidden ones. The result is empty if it does not exist."""
        if self._system is None:
            folder = self._root / under
            found = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        else:
            try:
                found = [posixpath.basename(path) for path in self._system.ls(self._path(under), detail=False)]
            except FileNotFoundError:
                found = []
        return {name for name in found if not name.startswith(".")}

    def remove(self, name: str) -> None:
        """Remove a subfolder with its files, if it exists."""
        if self._system is not None:
            if self._system.exists(self._path(name)):
                self._system.rm(self._path(name), recursive=True)
            return
        import shutil

        shutil.rmtree(self._root / name, ignore_errors=True)

    def _path(self, name: str) -> str:
        return posixpath.join(str(self._root), name)
