"""Files and directories that appear whole or not at all.

What is written goes to a hidden sibling, is flushed to the disk, and takes the target's name in one step. A process
that is killed leaves the target as it was; its sibling is cleared away by the next one that writes there.
"""

import ctypes
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from .errors import BundleError, OptionError

_RENAME_EXCHANGE = 2  # linux/fs.h
_AT_FDCWD = -100


@contextmanager
def published_directory(target: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield an empty directory that becomes `target` when the block ends well, and vanishes when it does not.

    Raises BundleError, before anything is done, when `target` exists and `force` is not set, or exists and is neither
    a bundle nor an empty directory (so that `--force` cannot delete somebody's documents).
    """
    check_target(target, force=force)
    target.parent.mkdir(parents=True, exist_ok=True)
    _clear_abandoned(target)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.{os.getpid()}.", suffix=".partial", dir=target.parent))
    partial.chmod(0o777 & ~_umask())
    try:
        yield partial
        for path in partial.iterdir():
            _flush(path)
        _flush(partial)
        check_target(target, force=force)
        put_in_place(partial, target)
        _flush(target.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def published_file(target: Path) -> Iterator[IO[str]]:
    """Yield a UTF-8 text file that replaces `target` when the block ends well, and vanishes when it does not."""
    if not target.parent.is_dir():
        raise OptionError(f"{target} is in a directory that does not exist: make {target.parent} first")
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent or Path())
    partial = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.chmod(0o666 & ~_umask())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def check_target(target: Path, *, force: bool) -> None:
    """Raise BundleError when `target` is in the way, so that a long export is not refused at its end."""
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
    """Give the directory `partial` the name `target`, in one step; what had it, if anything, may lie at `partial` then."""
    if target.exists() and _exchanged(partial, target):
        return  # `partial` now holds the old bundle, and the caller removes it
    if target.exists():
        # No exchange on this system: between the two renames there is a moment without a bundle.
        old = partial.with_suffix(".old.partial")
        target.rename(old)
        partial.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        partial.rename(target)


def _exchanged(one: Path, other: Path) -> bool:
    """Swap two directories in one step where the system can (Linux, renameat2 with RENAME_EXCHANGE)."""
    if sys.platform != "linux":
        return False
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return bool(renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)


def _clear_abandoned(target: Path) -> None:
    pattern = re.compile(rf"\.{re.escape(target.name)}\.(\d+)\..*\.partial")
    for sibling in target.parent.iterdir():
        match = pattern.fullmatch(sibling.name)
        if match and not _alive(int(match[1])):
            shutil.rmtree(sibling, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OSError):
        return True
    return True


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
