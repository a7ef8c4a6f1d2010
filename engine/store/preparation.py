"""`prepare`: tokenizes a collection into a `PassageStore`. An interrupted run continues where it stopped.

The files grow in a hidden directory beside the store. After every piece they are flushed to the disk, and `progress.json`, which
records their valid sizes, is replaced. The next run truncates the files to these sizes and continues.
"""

import dataclasses
import functools
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np
import tokenizers
from tqdm import tqdm

from ..errors import DataFileError, StoreError
from ..files.lock import check_owner, file_lock, open_own_file
from ..files.publish import clear_abandoned, naming, put_in_place, replaced_text
from ..files.record import read_json, record
from ..files.source import Given, Line, Source
from ..files.texts import Text, check_columns, shown, text_of
from ..files.trec import FEW
from ..text.encoded_pairs import Spans, TruncationSide, ragged
from ..text.tokenizer import explained, largest_id
from ..text.wordpiece import WordPiece, tokens_of
from .passage_store import DESCRIPTION, MAX_LENGTH, MAX_NAME_BYTES, PassageStore, StoreDescription, partial_path

PIECE = 5_000
"""Passages between two writes of the progress: 0.04 seconds of work, or 0.7 seconds with the package tokenizers."""
PIECE_CHARACTERS = 8_000_000
"""Characters after which a piece ends, so that memory does not grow with the length of the passages. Tokenizing takes up to 8
bytes for each character."""
PROGRESS = "progress.json"
GROWING = {"ids.bin": "tokens", "starts.bin": "passages", "lengths.bin": "passages", "names.txt": "name_bytes"}

WHOLE = 2**31 - 1
"""A limit that keeps every passage whole."""
MAX_UNSORTED = 1 << 32
"""Most passages whose ids are not in ascending order: row numbers in `order.bin` have 32 bits."""


@dataclass(slots=True, kw_only=True)
class _Progress:
    """The state of a run: its input and settings, the bytes and lines read, and the valid size of each file."""

    tokenizer_sha256: str
    limit: int
    id_type: str
    source_size: int
    source_time: int
    truncation_side: TruncationSide = "right"
    position: int = 0
    line: int = 0
    passages: int = 0
    tokens: int = 0
    name_bytes: int = 0
    name_width: int = 1
    ascending: bool = True
    last_name: str = ""

    def same_work(self, other: "_Progress") -> bool:
        """Tell whether both runs have the same input and settings."""
        fields = ("tokenizer_sha256", "limit", "id_type", "source_size", "source_time", "truncation_side")
        return all(getattr(self, field) == getattr(other, field) for field in fields)

    def possible(self) -> bool:
        """Tell whether the numbers are plausible; the file that they come from may be damaged."""
        numbers = (self.line, self.passages, self.tokens, self.name_bytes)
        return min(self.position, *numbers) >= 0 and 1 <= self.name_width <= MAX_NAME_BYTES


def prepare(
    passages: Given,
    store: Path,
    tokenizer: tokenizers.Tokenizer,
    *,
    tokenizer_sha256: str,
    limit: int,
    truncation_side: TruncationSide = "right",
    force: bool = False,
    progress: bool = False,
) -> PassageStore:
    """Tokenize `passages`, files of texts (`files/texts.py`), into `store`, keeping at most `limit` tokens of each.

    Of a longer passage it keeps the first tokens, or with `truncation_side="left"` the last ones, for models that truncate on
    that side. Continues an interrupted run with the same input and settings. Memory does not grow with the text. Ids that are
    not in ascending order are sorted at the end, which takes about 30 bytes per passage. Raises DataFileError, naming the
    line, for a line that is not a passage, and StoreError if the store exists and `force` is not set, if another process is
    writing it, or if there are more than `MAX_UNSORTED` passages to sort.
    """
    store = Path(os.path.realpath(store))  # follows a symbolic link instead of replacing it
    if store.exists() and not force:
        raise StoreError(f"{store} is already there; give another path, or --force to replace it")
    if store.exists() and not (store / DESCRIPTION).is_file():
        raise StoreError(f"{store} is not a store of prepared passages, so it is not replaced; give another path")
    source = Source.of(passages)
    size, time = source.size_and_time()
    start = _Progress(
        tokenizer_sha256=tokenizer_sha256,
        limit=min(limit, WHOLE),
        id_type="uint16" if largest_id(tokenizer) < 1 << 16 else "uint32",
        source_size=size,
        source_time=time,
        truncation_side=truncation_side,
    )
    plain = tokenizers.Tokenizer.from_str(tokenizer.to_str())
    plain.no_truncation()
    plain.no_padding()
    wordpiece = WordPiece.of(plain)
    tokenize = wordpiece.tokens if wordpiece is not None else functools.partial(tokens_of, plain)
    partial = partial_path(store)
    with naming(store), _locked(store):
        clear_abandoned(store.parent, store.name)
        _create(partial)
        state = _resumed(partial, start)
        with tqdm(
            total=state.source_size if source.plain else None,
            initial=state.position,
            desc="Preparing",
            unit="B",
            unit_scale=True,
            disable=not progress,
        ) as bar:
            _grow(source, partial, tokenize, state, bar)
        if not state.passages:
            shutil.rmtree(partial)
            raise DataFileError(f"{source} is empty")
        _finish(partial, state, source=source.short_name)
        put_in_place(partial, store)
        shutil.rmtree(partial, ignore_errors=True)  # now holds the old store, if there was one
    return PassageStore(store)


@contextmanager
def _locked(store: Path) -> Iterator[None]:
    store.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as holding:
        try:
            holding.enter_context(file_lock(store.with_name(f".{store.name}.lock")))
        except BlockingIOError as error:
            raise StoreError(
                f"{store} is being written by another process; wait for it, or give another path"
            ) from error
        yield


def _create(partial: Path) -> None:
    """Create the directory, unless an interrupted run of this user left it."""
    partial.mkdir(exist_ok=True)
    status = partial.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise StoreError(f"{partial} is a symbolic link, which is not followed here; remove it")
    check_owner(partial, status)


def _resumed(partial: Path, start: _Progress) -> _Progress:
    """Return the state of an earlier run with the same work, or `start`. Truncates the files to their valid sizes."""
    try:
        state = record(_Progress, read_json(partial / PROGRESS))
    except (OSError, ValueError):
        state = start
    if (
        not state.same_work(start)
        or not state.possible()
        or any(
            not (partial / name).is_file() or (partial / name).stat().st_size < size
            for name, size in _sizes(state).items()
        )
    ):
        state = start
    for name, size in _sizes(state).items():
        with _own(partial / name, "ab") as file:
            file.truncate(size)
    return state


def _sizes(state: _Progress) -> dict[str, int]:
    width = {"ids.bin": np.dtype(state.id_type).itemsize, "starts.bin": 8, "lengths.bin": 2, "names.txt": 1}
    return {name: getattr(state, field) * width[name] for name, field in GROWING.items()}


def _grow(
    source: Source, partial: Path, tokenize: Callable[[Sequence[str]], Spans], state: _Progress, bar: "tqdm[None]"
) -> None:
    plain = source.plain
    # A plain file is read from where the earlier run stopped. Other sources are read from the start, and the lines that the
    # earlier run has read are skipped.
    lines = (
        source.lines(after=state.line, position=state.position)
        if plain
        else islice(source.lines(), state.passages, None)
    )
    with ExitStack() as opened:
        files = {name: opened.enter_context(_own(partial / name, "ab")) for name in GROWING}
        for piece in _pieces(lines):
            found = [text_of(line) for line in piece]
            names = [checked_name(text, line) for text, line in zip(found, piece, strict=True)]
            texts = [text.text for text in found]
            # In the first piece, so that a wrong file is refused early. A few long texts may all hold tabs by chance.
            if not state.passages and (len(piece) >= FEW or sum(map(len, texts)) < PIECE_CHARACTERS):
                check_columns({text.tabs for text in found}, source, "`id <tab> text`")
            with explained("the tokenizer"):
                ids, begins, lengths = tokenize(texts)
            sizes = np.minimum(lengths, state.limit)
            if state.truncation_side == "left":
                begins = begins + lengths - sizes
            starts = state.tokens + np.cumsum(sizes) - sizes
            _write(files["ids.bin"], ids[ragged(begins, sizes)].astype(state.id_type))
            _write(files["starts.bin"], starts.astype("<u8"))
            _write(files["lengths.bin"], np.minimum(lengths, MAX_LENGTH).astype("<u2"))
            names_text = "".join(f"{name}\n" for name in names).encode()
            files["names.txt"].write(names_text)
            for file in files.values():
                file.flush()
                os.fsync(file.fileno())
            for name in names:
                state.ascending = state.ascending and _shortlex(state.last_name) < _shortlex(name)
                state.last_name = name
                state.name_width = max(state.name_width, len(name.encode()))
            if not state.ascending and state.passages + len(names) > MAX_UNSORTED:
                raise StoreError(
                    f"{source} has more than {MAX_UNSORTED:,} passages, and their ids are not in ascending order; sort them by "
                    "the length of the id and then by the id, or prepare several stores"
                )
            read = sum(line.end - line.position for line in piece)
            state.position, state.line = piece[-1].end, piece[-1].number
            state.passages += len(names)
            state.tokens += int(sizes.sum())
            state.name_bytes += len(names_text)
            _save(partial, state)
            bar.update(read)


def _pieces(lines: Iterable[Line]) -> Iterator[list[Line]]:
    """Yield lists of at most `PIECE` lines, which end earlier once they have `PIECE_CHARACTERS` characters."""
    piece: list[Line] = []
    characters = 0
    for line in lines:
        piece.append(line)
        characters += len(line.text)
        if len(piece) == PIECE or characters >= PIECE_CHARACTERS:
            yield piece
            piece, characters = [], 0
    if piece:
        yield piece


def checked_name(text: Text, line: Line) -> str:
    """Return a passage's id. Raises DataFileError for one that a store cannot hold."""
    # NumPy pads names with zero bytes, so a name that ends in one could not be told apart.
    if "\0" in text.id or len(text.id.encode()) > MAX_NAME_BYTES:
        raise DataFileError(
            f"{line.where}: an id has 1 to {MAX_NAME_BYTES} bytes and no zero byte; got {shown(text.id)}"
        )
    return text.id


def _finish(partial: Path, state: _Progress, *, source: str) -> None:
    """Write the names at their fixed width, their order, and the description."""
    with _own(partial / "starts.bin", "ab") as file:
        _write(file, np.array([state.tokens], dtype="<u8"))
    width = state.name_width
    with (partial / "names.txt").open("rb") as names, _own(partial / "names.bin", "wb") as file:
        while lines := list(islice(names, PIECE)):
            file.write(b"".join(line[:-1].rjust(width, b"\0") for line in lines))
    kept = ["ids.bin", "starts.bin", "lengths.bin", "names.bin"]
    if not state.ascending:
        fixed = np.fromfile(partial / "names.bin", dtype=f"S{width}")
        order = np.argsort(fixed, kind="stable")
        ordered = fixed[order]
        same = np.flatnonzero(ordered[1:] == ordered[:-1])
        if len(same):
            shutil.rmtree(partial)  # continuing from here would find the same duplicate again
            raise DataFileError(
                f"the id {ordered[same[0]].lstrip(bytes(1)).decode()} comes a second time in {source}; ids must be unique"
            )
        with _own(partial / "order.bin", "wb") as file:
            _write(file, order.astype("<u4"))
        kept.append("order.bin")
    description = StoreDescription(
        tokenizer_sha256=state.tokenizer_sha256,
        source=source,
        limit=state.limit,
        passages=state.passages,
        tokens=state.tokens,
        id_type=state.id_type,
        name_width=width,
        truncation_side=state.truncation_side,
        files={name: (partial / name).stat().st_size for name in kept},
    )
    with _own(partial / DESCRIPTION, "wb") as file:
        file.write(description.to_json().encode())
    for name in [*kept, DESCRIPTION]:
        with (partial / name).open("rb") as file:
            os.fsync(file.fileno())
    for name in ("names.txt", PROGRESS):
        (partial / name).unlink(missing_ok=True)


def _save(partial: Path, state: _Progress) -> None:
    with replaced_text(partial / PROGRESS) as file:
        json.dump(dataclasses.asdict(state), file)


def _own(path: Path, mode: str) -> IO[bytes]:
    opened: IO[bytes] = open(path, mode, opener=open_own_file)  # noqa: SIM115, Path.open takes no opener
    return opened


def _write(file: IO[bytes], values: "np.ndarray[tuple[int], np.dtype[np.generic]]") -> None:
    file.write(values.tobytes())


def _shortlex(name: str) -> tuple[int, bytes]:
    encoded = name.encode()
    return len(encoded), encoded
