"""`file_lock`: a lock file that one process holds at a time; `open_own_file`: opens files whose names other users can guess.

The lock (flock) belongs to the open file. So it ends when its process ends, however that happens. It also works between
containers that share a volume, where process ids mean nothing.
"""

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path

# O_NONBLOCK: opening a named pipe would otherwise wait for its other end.
_CAREFULLY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


@contextmanager
def file_lock(path: Path, *, waiting: str | None = None, needed: bool = False) -> Iterator[int]:
    """Hold a lock on the file `path` during the block, and yield its descriptor. The file is created, and removed afterwards.

    If another process or thread holds it, print `waiting` to standard error, unless it is empty, and wait. If `waiting` is None,
    raise BlockingIOError at once. If the file system has no locks, continue without one, or raise OSError if the lock is needed.
    A child process that inherits the descriptor also holds the lock, until it ends. Raises OSError as `open_own_file` does.
    """
    handle = _acquired(path, waiting, needed)
    try:
        yield handle
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)  # before releasing the lock: a waiter checks whether the file is still there
        os.close(handle)


def open_own_file(path: str | PathLike[str], flags: int) -> int:
    """Open or create a file of this user. Can be used as the `opener` of `open`.

    In a folder where anyone may write, such as /tmp, another user can put a file or link under a name that is easy to guess.
    Raises OSError, before a byte is changed, for a symbolic link, for anything but a regular file, and for another user's file,
    unless that user owns the folder too.
    """
    path = Path(path)
    while True:
        if flags & os.O_CREAT:
            with suppress(FileExistsError):
                return os.open(path, (flags | os.O_EXCL) & ~os.O_TRUNC, 0o666)
        try:
            handle = os.open(path, (flags | _CAREFULLY) & ~(os.O_CREAT | os.O_TRUNC))
            break
        except OSError as error:
            if isinstance(error, FileNotFoundError) and flags & os.O_CREAT:
                continue  # it existed a moment ago, and its holder has removed it since
            if error.errno == errno.ELOOP:
                raise OSError(
                    error.errno, "is a symbolic link, which is not followed here; remove it", str(path)
                ) from error
            raise
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "is not a regular file; remove it", str(path))
        check_owner(path, status)
        if flags & os.O_TRUNC:
            os.ftruncate(handle, 0)
    except BaseException:
        os.close(handle)
        raise
    return handle


def check_owner(path: Path, status: os.stat_result) -> None:
    """Raise PermissionError if `path`, with this `status`, belongs neither to this user nor to the owner of its folder."""
    if sys.platform != "win32" and status.st_uid not in (os.geteuid(), path.parent.stat().st_uid):
        raise PermissionError(
            errno.EPERM, f"belongs to another user (uid {status.st_uid}), so it is not used; remove it", str(path)
        )


def _acquired(path: Path, waiting: str | None, needed: bool) -> int:
    while True:
        handle = open_own_file(path, os.O_RDWR | os.O_CREAT)
        try:
            try:
                _lock(handle, wait=False)
            except BlockingIOError:
                if waiting is None:
                    raise
                if waiting:
                    print(waiting, file=sys.stderr, flush=True)
                waiting = ""  # print it once
                _lock(handle, wait=True)
            except OSError:
                if needed:
                    raise
            if _is_at(handle, path):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its holder removed the file while this process waited: lock the file that now has the name


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
