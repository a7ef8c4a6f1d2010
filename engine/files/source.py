"""`Source`: the lines of one or several files that a user gives, compressed or not."""

import bz2
import codecs
import glob
import gzip
import importlib
import json
import lzma
import os
import re
import stat
import sys
import tempfile
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeAlias

from ..errors import BackendError, DataFileError
from .digests import sha256_of

STANDARD_INPUT, STANDARD_INPUT_NAME = "-", "standard input"

NO_TEXT = {
    b"PK\x03\x04": "a zip archive: unpack it first, and give a file of it",
    b"ARROW1\0\0": "an Arrow file: write it as Parquet first",
    b"SQLite format 3\0": "a SQLite database: write its columns as lines with tabs first",
    b"\xff\xfe": "text in UTF-16: convert it first, as with iconv -f UTF-16 -t UTF-8",
    b"\xfe\xff": "text in UTF-16: convert it first, as with iconv -f UTF-16 -t UTF-8",
}
"""First bytes of common kinds of files that cannot be read -> what to do."""
PARQUET = b"PAR1\x15"
DAMAGED = (EOFError, zlib.error, lzma.LZMAError)
"""What Python raises for compressed data that is cut short or damaged, besides OSError and ZstdError."""


class Line(NamedTuple):
    """A line that is not empty.

    `path` is the file's name, `number` counts lines from 1, `position` is the first byte, and `end` the byte after the last.
    `text` has no line end.
    """

    path: str
    number: int
    position: int
    end: int
    text: str

    @property
    def where(self) -> str:
        """The file and the line's number, for messages."""
        return f"{self.path}, line {self.number}"


class Source:
    """The lines of files, one file after the other. Any number of threads may read.

    A file is plain UTF-8, or compressed by gzip, bzip2, xz or zstd, or a Parquet table, whose rows are read as JSON objects. The
    first bytes decide, not the name. Standard input, pipes and devices are copied to temporary files, since they can be read
    only once.
    """

    def __init__(self, files: Sequence[Path], names: Sequence[str] | None = None) -> None:
        """Take the files, and their names in messages, where these are others."""
        self.files = tuple(files)
        self.names = tuple(map(str, files) if names is None else names)
        self.name = self.names[0] if len(files) == 1 else f"{self.names[0]} and {len(files) - 1} more"
        self._copies: list[_Copy] = []
        """Temporary files, which exist as long as the source does."""

    @classmethod
    def of(cls, given: "Given") -> "Source":
        """Find the files. Raises DataFileError for a pattern without matches and for a file that cannot be read."""
        if isinstance(given, Source):
            return given
        words = [given] if isinstance(given, (str, Path)) else list(given)
        if not words:
            raise DataFileError("no file is given")
        if [str(word) for word in words] == [STANDARD_INPUT]:
            return cls._of_standard_input()
        if STANDARD_INPUT in map(str, words):
            raise DataFileError("- (standard input) cannot be joined with other files")
        given_files = [path for word in words for path in _expanded(str(word))]
        copies = {}
        for path in given_files:
            with reading(path), path.open("rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    copies[path] = _Copy(_pieces(file))
        source = cls(
            [copies[path].path if path in copies else path for path in given_files],
            names=[str(path) for path in given_files],
        )
        source._copies += copies.values()
        return source

    @classmethod
    def _of_standard_input(cls) -> "Source":
        copy = _Copy(_pieces(sys.stdin.buffer))
        source = cls([copy.path], names=[STANDARD_INPUT_NAME])
        source._copies.append(copy)
        return source

    def contains(self, path: Path) -> bool:
        """Tell whether the file `path` is one of the files, also by another name. Pipes and devices are not."""
        return _is_one_of(path, self.files)

    def __str__(self) -> str:
        return self.name

    @property
    def short_name(self) -> str:
        """The name without folders."""
        first = Path(self.names[0]).name
        return first if len(self.files) == 1 else f"{first} and {len(self.files) - 1} more"

    @property
    def plain(self) -> bool:
        """Whether this is a single file that is neither compressed nor Parquet, so that it can be read from any byte on."""
        return len(self.files) == 1 and not _packed(self.files[0])

    def lines(self, *, after: int = 0, position: int = 0) -> Iterator[Line]:
        """Yield the lines that are not empty. A plain source can begin after line `after`, which ends before byte `position`.

        Raises DataFileError, naming file and line, for a line that is not UTF-8, and for a source that is empty.
        """
        empty = not position
        for name, number, at, raw in self._raw(after, position):
            text = _decoded(raw, number, name)
            if text:
                empty = False
                yield Line(name, number, at, at + len(raw), text)
        if empty:
            raise DataFileError(f"{self} is empty")

    def lines_in(self, pieces: Iterable[tuple[int, int, int]]) -> Iterator[Line]:
        """Yield the lines of pieces of a plain source that are not empty. The file is opened once for all of them.

        A piece is (its first byte, the byte after its last, the number of its first line).
        """
        [path] = self.files
        with reading(path, self.name), path.open("rb") as file:
            for at, end, number in pieces:
                file.seek(at)
                for raw in BytesIO(file.read(end - at)):
                    text = _decoded(raw, number, self.name)
                    if text:
                        yield Line(self.name, number, at, at + len(raw), text)
                    at, number = at + len(raw), number + 1

    def unpacked(self) -> "Source":
        """Return this source if it is plain, or else a copy of its lines in a temporary file.

        The copy has the same name in messages, and exists as long as the source that is returned.
        """
        if self.plain:
            return self
        lines = (raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw for _, number, _, raw in self._raw())
        copy = _Copy(line if line.endswith(b"\n") else line + b"\n" for line in lines)
        source = Source([copy.path], names=[self.name])
        source._copies += [*self._copies, copy]
        return source

    def sha256(self) -> str:
        """Return the SHA-256 of the file as it is stored, in hexadecimal. For several files it is the hash of their digests."""
        with reading(Path(self.name)):
            digests = [sha256_of(path) for path in self.files]
        return digests[0] if len(digests) == 1 else sha256("".join(digests).encode()).hexdigest()

    def size_and_time(self) -> tuple[int, int]:
        """Return the total size of all files in bytes, and their latest time of change in nanoseconds."""
        with reading(Path(self.name)):
            found = [path.stat() for path in self.files]
        return sum(each.st_size for each in found), max(each.st_mtime_ns for each in found)

    def _raw(self, after: int = 0, position: int = 0) -> Iterator[tuple[str, int, int, bytes]]:
        """Yield file, number, first byte and bytes of each line."""
        for path, name in zip(self.files, self.names, strict=True):
            with reading(path, name), _opened(path) as file:
                if position:
                    file.seek(position)
                at = position
                for number, raw in enumerate(_rows(file, path, name), start=after + 1):
                    yield name, number, at, raw
                    at += len(raw)


Given: TypeAlias = Source | str | Path | Sequence[str | Path]
"""How a source is given: a path, a pattern such as `part-*.jsonl.gz`, `-` for standard input, or several of them."""


def contains_file(words: Sequence[str], path: Path) -> bool:
    """Tell whether the file `path` is one of the files and patterns given, also by another name. Pipes and devices are not.

    Raises DataFileError for a pattern without matches.
    """
    return _is_one_of(path, (file for word in words for file in _expanded(str(word))))


def _is_one_of(path: Path, files: Iterable[Path]) -> bool:
    return path.is_file() and any(file.is_file() and file.samefile(path) for file in files)


@contextmanager
def reading(path: Path, name: str | None = None) -> Iterator[None]:
    """Turn errors of reading a file into DataFileError, which names the file."""
    try:
        yield
    except OSError as error:
        if error.strerror is None:  # from gzip or bz2, about what the file holds
            raise _damaged(name or path, error) from error
        raise DataFileError(f"{name or path} cannot be read ({error.strerror})") from error
    except Exception as error:
        if not isinstance(error, DAMAGED) and type(error).__name__ != "ZstdError":
            raise
        raise _damaged(name or path, error) from error


def _damaged(name: str | Path, error: Exception) -> DataFileError:
    return DataFileError(f"{name} is damaged or cut short ({error}); get it again")


class _Copy:
    """A temporary file that is removed with this object. It is not held open, since Windows would not open it again."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        descriptor, name = tempfile.mkstemp(prefix="crossrt-")
        self.path = Path(name)
        weakref.finalize(self, self.path.unlink, missing_ok=True)
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(pieces)


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    """Yield what a file holds from here on."""
    return iter(partial(file.read, 1 << 20), b"")


def _expanded(word: str) -> list[Path]:
    """Return the files of a pattern, sorted by name. The name of an existing file is not treated as a pattern."""
    if os.path.lexists(word) or not glob.has_magic(word):
        return [Path(word)]
    found = sorted(glob.glob(word, recursive=True))  # noqa: PTH207, Path.glob takes no absolute patterns
    if not found:
        raise DataFileError(f"no file matches {word}")
    return [Path(path) for path in found]


def _beginning(path: Path) -> bytes:
    with reading(path), path.open("rb") as file:
        return file.read(16)


def _opener(beginning: bytes) -> Callable[[Path], IO[bytes]] | None:
    """Return the function that opens a file that begins with these bytes; None for a file that is not compressed."""
    openers: dict[bytes, Callable[[Path], Any]] = {
        rb"\x1f\x8b": gzip.open,
        rb"BZh[1-9](1AY&SY|\x17rE8P\x90)": bz2.open,  # the size of blocks, then the mark of a block, or of the end if empty
        rb"\xfd7zXZ\0": lzma.open,
        rb"\x28\xb5\x2f\xfd": _open_zstd,
    }
    return next((opener for magic, opener in openers.items() if re.match(magic, beginning)), None)


def _packed(path: Path) -> bool:
    beginning = _beginning(path)
    return beginning.startswith(PARQUET) or _opener(beginning) is not None


def _opened(path: Path) -> IO[bytes]:
    opener = _opener(_beginning(path))
    return path.open("rb") if opener is None else opener(path)


def _zstd() -> Any:
    """Return the module for zstd, which is part of Python from 3.14 on; None if it is missing."""
    for name in ("compression.zstd", "backports.zstd"):
        with suppress(ImportError):
            return importlib.import_module(name)
    return None


def _open_zstd(path: Path) -> IO[bytes]:
    zstd = _zstd()
    if zstd is None:
        raise BackendError(f'{path} is compressed by zstd, which needs backports.zstd: pip install "crossrt[zstd]"')
    opened: IO[bytes] = zstd.open(path)
    return opened


def _rows(file: IO[bytes], path: Path, name: str) -> Iterator[bytes]:
    """Yield the lines of a file, or the rows of a Parquet table as JSON."""
    if _beginning(path).startswith(PARQUET):
        return _parquet_rows(path, name)
    return iter(file)


def _parquet_rows(path: Path, name: str) -> Iterator[bytes]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise BackendError(f'{name} is a Parquet file, which needs pyarrow: pip install "crossrt[parquet]"') from None
    try:
        with parquet.ParquetFile(path) as table:
            simple = [
                field.name for field in table.schema_arrow if not pyarrow.types.is_nested(field.type)
            ]  # a nested column is no id, no text and no score
            for batch in table.iter_batches(columns=simple):
                for row in batch.to_pylist():
                    yield json.dumps(row, default=_as_text).encode()
    except pyarrow.ArrowException as error:
        raise DataFileError(f"{name} is no Parquet file that can be read: {error}") from error


def _as_text(value: object) -> str | None:
    """Return a value that JSON has no form for as a text. Bytes are UTF-8: many writers do not mark columns of texts as such.

    Bytes that are something else, such as an image, become null.
    """
    if not isinstance(value, bytes):
        return str(value)
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _decoded(raw: bytes, number: int, name: str) -> str:
    if number == 1:
        for beginning, kind in NO_TEXT.items():
            if raw.startswith(beginning):
                raise DataFileError(f"{name} is {kind}")
        if raw[257:262] == b"ustar":
            raise DataFileError(f"{name} is a tar archive: unpack it first, as with tar -xf")
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DataFileError(
            f"{name}, line {number}: byte {error.start + 1} is not valid UTF-8; convert the file to UTF-8 first"
        ) from None
