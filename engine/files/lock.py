"""`held`: a file that one process holds at a time; `own_file`: files by names that others can guess.

A lock belongs to an open file, and the file system keeps it. So it ends with its process, however that ends, and it holds
between containers that share a volume, where a process id of one means nothing to the other.
"""

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path

# Without O_NONBLOCK a named pipe would be waited for.
_CAREFULLY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


@contextmanager
def held(path: Path, *, waiting: str | None = None, needed: bool = False) -> Iterator[int]:
    """Hold the file `path`, which is made for it and removed afterwards; yield its descriptor.

    Where another process or thread has it, wait, and print the words `waiting` to standard error; without them raise
    BlockingIOError at once. Where the file system has no locks, go on without one, or, if it is `needed`, raise OSError.
    A child process that inherits the descriptor holds the file too, for as long as it lives. Raises OSError as `own_file` does.
    """
    handle = _acquired(path, waiting, needed)
    try:
        yield handle
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)  # before it is let go: who waits for it looks whether the name is still there
        os.close(handle)


def own_file(path: str | PathLike[str], flags: int) -> int:
    """Open a file that this user made, or make it. An `opener` for `open`.

    In a folder where anyone may write, such as /tmp, others can put something under a name that they can guess. Raises
    OSError, before a byte is changed, for a symbolic link, for anything but a regular file, and for another user's file,
    unless that user owns the folder too.
    """
    path = Path(path)
    if flags & os.O_CREAT:
        with suppress(FileExistsError):
            return os.open(path, (flags | os.O_EXCL) & ~os.O_TRUNC, 0o666)
    try:
        handle = os.open(path, (flags | _CAREFULLY) & ~(os.O_CREAT | os.O_TRUNC))
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(
                error.errno, "is a symbolic link, which is not followed here; remove it", str(path)
            ) from error
        raise
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "is not a regular file; remove it", str(path))
        check_owner(path, found)
        if flags & os.O_TRUNC:
            os.ftruncate(handle, 0)
    except BaseException:
        os.close(handle)
        raise
    return handle


def check_owner(path: Path, found: os.stat_result) -> None:
    """Raise PermissionError when what is at `path` belongs neither to this user nor to the owner of its folder."""
    if sys.platform != "win32" and found.st_uid not in (os.geteuid(), path.parent.stat().st_uid):
        raise PermissionError(
            errno.EPERM, f"belongs to another user (uid {found.st_uid}), so it is not used; remove it", str(path)
        )


def _acquired(path: Path, waiting: str | None, needed: bool) -> int:
    while True:
        try:
            handle = own_file(path, os.O_RDWR | os.O_CREAT)
        except FileNotFoundError:
            if path.parent.is_dir():
                continue  # removed by its holder, between two steps of `own_file`
            raise
        try:
            try:
                _lock(handle, wait=False)
            except BlockingIOError:
                if waiting is None:
                    raise
                if waiting:
                    print(waiting, file=sys.stderr, flush=True)
                waiting = ""  # said once
                _lock(handle, wait=True)
            except OSError:
                if needed:
                    raise
            if _is_at(handle, path):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its holder has removed it: what stands under the name now, if anything, is another file


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False


def _lock(handle: int, *, wait: bool) -> None:
    if sys.platform == "win32":
        raise OSError(errno.ENOSYS, "there are no locks of this kind on Windows")
    import fcntl

    fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
