"""Writes files and directories atomically: a reader finds the old content or the whole new content.

New content is written to a hidden sibling of the target, flushed to the disk, and renamed to the target. A process that is
killed leaves the target as it was. A writer holds a lock file beside the sibling while it writes. The next writer removes
siblings whose locks nobody holds.
"""

import ctypes
import errno
import io
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ..errors import BundleError, OptionError
from .lock import file_lock

STANDARD_OUTPUT = Path("-")
_RENAME_EXCHANGE = 2  # linux/fs.h
_AT_FDCWD = -100
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}
"""Errors of a write itself. Python's OSError has no file name for them."""


@contextmanager
def published_directory(target: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield an empty directory that becomes `target` when the block succeeds, and is removed when it raises.

    If `target` is a symbolic link, the directory that it points to is replaced. Raises BundleError, before anything is written,
    if `target` exists and `force` is not set. Always raises it if `target` is neither a bundle nor an empty directory, so that
    `--force` cannot delete somebody's documents.
    """
    check_target(target, force=force)
    target = _followed(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    clear_abandoned(target.parent, target.name)
    with _partial(target) as partial:
        partial.mkdir()
        yield partial
        for path in partial.rglob("*"):
            _flush(path)
        _flush(partial)
        check_target(target, force=force)
        _keep_permissions(partial, target)
        put_in_place(partial, target)
        with suppress(OSError):  # not every file system flushes directories
            _flush(target.parent)


@contextmanager
def published_file(out: Path) -> Iterator[IO[str]]:
    """Yield a UTF-8 text file that replaces the user's output file `out` when the block succeeds.

    `-` is standard output. Symbolic links are followed, and a regular file keeps its permissions. A device, a named pipe and a
    descriptor (`/dev/stdout`, `/dev/fd/3`) are written to directly, not replaced. Raises OptionError for a directory and for a
    file in a directory that does not exist, and OSError, naming `out`, when it cannot be written.
    """
    descriptor = sys.stdout.fileno() if out == STANDARD_OUTPUT else _descriptor(out)
    if descriptor is not None:
        sys.stdout.flush()
        with naming(out), os.fdopen(os.dup(descriptor), "w", encoding="utf-8", newline="\n") as file:
            yield file
        return
    check_file(out)
    target = _followed(out)
    if target.exists() and not target.is_file():
        with (
            naming(out),
            os.fdopen(os.open(target, os.O_WRONLY), "w", encoding="utf-8", newline="\n") as file,
        ):
            yield file
        return
    with replaced_text(target) as file:
        yield file


def check_file(out: Path) -> None:
    """Raise OptionError for a directory, and for a file in a directory that does not exist. Called before long work, too."""
    if out == STANDARD_OUTPUT:
        return
    target = _followed(out)
    if not target.parent.is_dir():
        raise OptionError(f"{out} is in a directory that does not exist: make {target.parent} first")
    if target.is_dir():
        raise OptionError(f"{out} is a directory; give a file to write")


@contextmanager
def replaced_text(target: Path) -> Iterator[IO[str]]:
    """Yield a UTF-8 text file that replaces `target`. See `replaced`."""
    with replaced(target) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="\n")
        yield text
        text.flush()
        text.detach()


@contextmanager
def replaced(target: Path, *, clear: bool = True) -> Iterator[IO[bytes]]:
    """Yield a binary file that replaces `target` when the block succeeds, and is removed when it raises.

    If `target` is a symbolic link, the link itself is replaced, and the file that it points to is not changed. Without `clear`
    the folder is not searched for siblings that killed processes left. Whoever writes many files into one folder calls
    `clear_abandoned` once instead. Raises OSError, naming `target`.
    """
    if clear:
        clear_abandoned(target.parent, target.name)
    with _partial(target) as partial:
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _keep_permissions(partial, target)
        partial.replace(target)


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it if that fails. If `source` is a symbolic link, `target` is the file that it points to."""
    source = source.resolve()  # os.link does not follow the link on Linux, and a relative link would point elsewhere
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


def check_target(target: Path, *, force: bool) -> None:
    """Raise BundleError if a bundle cannot be published at `target`. Called before a long export, and again at its end."""
    target = _followed(target)
    if target.is_dir():
        if not any(target.iterdir()):
            return
        if not (target / "manifest.json").is_file():
            raise BundleError(f"{target} holds other files and is not a bundle; give another output directory")
        if not force:
            raise BundleError(f"{target} is already there; give another output directory, or --force to replace it")
    elif target.exists() or target.is_symlink():
        raise BundleError(f"{target} is not a directory; give another output directory")


def put_in_place(partial: Path, target: Path) -> None:
    """Rename the directory `partial` to `target` in one step. Afterwards an old `target` may be at `partial`."""
    if target.exists() and _exchanged(partial, target):
        return  # the old directory is now at `partial`, and the caller removes it
    if target.exists():
        # Without renameat2 this takes two renames, and for a moment there is no directory at `target`.
        old = target.with_name(_partial_name(target.name))
        target.rename(old)
        partial.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        partial.rename(target)


def clear_abandoned(folder: Path, name: str | None = None) -> None:
    """Remove the hidden siblings that killed processes left in `folder`, of the target `name` or of any target."""
    pattern = re.compile(rf"(\.{'.+' if name is None else re.escape(name)}\.[0-9a-f]{{16}})\.(?:partial|lock)")
    try:
        stems = {match[1] for path in folder.iterdir() if (match := pattern.fullmatch(path.name))}
    except OSError:  # the folder does not exist yet, or may be written but not listed
        return
    for stem in stems:
        with (
            suppress(OSError),
            file_lock(folder / f"{stem}.lock", needed=True),
        ):  # BlockingIOError: a process is still writing it
            _remove(folder / f"{stem}.partial")


@contextmanager
def _partial(target: Path) -> Iterator[Path]:
    """Yield the path of a hidden sibling. A lock keeps others from removing it during the block. It is removed afterwards."""
    partial = target.with_name(_partial_name(target.name))
    # `clear_abandoned` of another process may hold the lock for a moment, if it found the file before it was locked here.
    with naming(target, partial), file_lock(partial.with_suffix(".lock"), waiting=""):
        try:
            yield partial
        finally:
            _remove(partial)


def _partial_name(name: str) -> str:
    return f".{name}.{secrets.token_hex(8)}.partial"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def naming(target: Path, partial: Path | None = None) -> Iterator[None]:
    """Make an OSError of the block name the file that the user knows, `target`, instead of its hidden sibling or no file."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in _DISK:
            error.filename = str(target)
        elif partial is not None and str(error.filename).startswith(str(partial.with_suffix(""))):
            inside = Path(error.filename).relative_to(target.parent).parts[1:]
            error.filename = str(target.joinpath(*inside))
        raise


def _followed(path: Path) -> Path:
    """Return the end of a chain of symbolic links, whether or not it exists."""
    return Path(os.path.realpath(path))


def _descriptor(path: Path) -> int | None:
    """Return the descriptor of this process that a path stands for, such as 1 for /dev/stdout; None for other paths.

    The caller duplicates the descriptor. Opening the path by name would begin at the start of a redirected file, and overwrite
    what other processes wrote through the same descriptor.
    """
    folders = {Path("/dev/fd"), Path(f"/proc/{os.getpid()}/fd")}
    for _ in range(40):  # as many links as Linux follows
        if path.name.isdecimal() and {path.parent, _followed(path.parent)} & folders:
            return int(path.name)
        if not path.is_symlink():
            return None
        path = path.parent / path.readlink()
    return None


def _keep_permissions(partial: Path, target: Path) -> None:
    """Give `partial` the mode of the old `target` and, if this user may, its owner and group."""
    try:
        old = target.lstat()
    except OSError:
        return
    if stat.S_ISLNK(old.st_mode):
        return
    if hasattr(os, "chown"):
        try:
            os.chown(partial, old.st_uid, old.st_gid)
        except OSError:
            with suppress(OSError):
                os.chown(partial, -1, old.st_gid)
    with suppress(OSError):
        partial.chmod(stat.S_IMODE(old.st_mode))


def _exchanged(one: Path, other: Path) -> bool:
    """Swap two directories in one step, if the system can (Linux, renameat2 with RENAME_EXCHANGE). Return whether it did."""
    if sys.platform != "linux":
        return False
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return bool(renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
