"""`PassageStore`: a collection of passages that was tokenized in advance, memory-mapped from disk.

store.json     the description: tokenizer, counts, sizes of the other files
ids.bin        token ids of all passages one after the other, without special tokens, uint16 or uint32
starts.bin     where each passage begins in ids.bin, and the end of the last one, uint64
lengths.bin    tokens of each passage before it was truncated to `limit`, uint16; 65,535 means that many or more
names.bin      passage ids in the order of the input, each `name_width` bytes, zero-padded on the left
order.bin      row numbers sorted by name, uint32; absent when the input was sorted

Names are sorted by length, then by bytes. So numbers, such as the ids of MS MARCO, are in ascending order.
"""

import dataclasses
import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import StoreError
from ..files.record import read_json, record
from ..text.encoded_pairs import TruncationSide

STORE_SCHEMA = 1
DESCRIPTION = "store.json"
MAX_NAME_BYTES = 255
"""Largest passage id in bytes."""
MAX_LENGTH = 65_535
"""Largest length in `lengths.bin`, which longer passages have too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreDescription:
    """The content of `store.json`.

    `limit` is the number of tokens kept of a longer passage: its first ones, or with `truncation_side="left"` its last ones.
    `files` maps file names to sizes in bytes.
    """

    schema: int = STORE_SCHEMA
    tokenizer_sha256: str
    source: str
    limit: int
    passages: int
    tokens: int
    id_type: str
    name_width: int
    files: dict[str, int]
    truncation_side: TruncationSide = "right"

    def to_json(self) -> str:
        """Return indented JSON that `read` reads back to an equal description."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def read(cls, file: Path) -> "StoreDescription":
        """Read and check `store.json`. Raises StoreError, naming the file, for anything unexpected."""
        try:
            fields = read_json(file)
            if isinstance(fields, dict) and type(fields.get("schema")) is int and fields["schema"] > STORE_SCHEMA:
                raise StoreError(
                    f"{file} has schema {fields['schema']}, and this crossrt reads up to {STORE_SCHEMA}: install a newer "
                    "crossrt, or prepare the store again"
                )
            description = record(cls, fields)
            description._check()
        except FileNotFoundError:
            raise StoreError(_absent(file.parent)) from None
        except (OSError, ValueError) as error:
            raise StoreError(f"{file} is not the description of a store ({error}); prepare it again") from error

        return description

    def _check(self) -> None:
        """Raise ValueError unless the counts and the file sizes are consistent."""
        if self.id_type not in ("uint16", "uint32"):
            raise ValueError(f"id_type is {self.id_type!r}, expected uint16 or uint32")
        if not (self.limit >= 1 and self.passages >= 1 and self.tokens >= 0 and 1 <= self.name_width <= MAX_NAME_BYTES):
            raise ValueError("limit, passages, tokens or name_width is out of its range")
        sizes = {
            "ids.bin": self.tokens * np.dtype(self.id_type).itemsize,
            "starts.bin": 8 * (self.passages + 1),
            "lengths.bin": 2 * self.passages,
            "names.bin": self.name_width * self.passages,
            "order.bin": 4 * self.passages,
        }
        if not self.files.keys() <= sizes.keys() or not sizes.keys() - {"order.bin"} <= self.files.keys():
            raise ValueError(f"it lists the files {', '.join(self.files)[:80]}")
        for name, size in self.files.items():
            if size != sizes[name]:
                raise ValueError(f"{name} has {size:,} bytes, and its numbers make it {sizes[name]:,}")


class PassageStore:
    """A collection of tokenized passages. Its files are memory-mapped; any number of threads and processes may share it."""

    def __init__(self, path: str | Path) -> None:
        """Open a store. Raises StoreError if the directory is not a store, or the store is unfinished or truncated."""
        self.path = Path(path)
        self._absolute = self.path.absolute()  # stored now, since a program may change its working directory
        self.description = StoreDescription.read(self.path / DESCRIPTION)
        for name, size in self.description.files.items():
            try:
                actual = (self.path / name).stat().st_size
            except OSError as error:
                raise StoreError(
                    f"{self.path / name} cannot be read ({error.strerror}); prepare the store again"
                ) from error
            if actual != size:
                raise StoreError(
                    f"{self.path / name} is damaged: {actual:,} bytes where {DESCRIPTION} says {size:,}; prepare or copy again"
                )
        self._ids = self._mapped("ids.bin", self.description.id_type)
        self._starts = self._mapped("starts.bin", "uint64")
        self._lengths = self._mapped("lengths.bin", "uint16")
        self._names = self._mapped("names.bin", f"S{self.description.name_width}")
        self._order = self._mapped("order.bin", "uint32") if "order.bin" in self.description.files else None

    def __len__(self) -> int:
        return self.description.passages

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and int(self._rows([name])[0]) >= 0

    def rows(self, names: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the row of each passage id, int64 [n]. Raises StoreError, naming the first id that is missing."""
        rows = self._rows(names)
        if (rows < 0).any():
            missing = names[int(np.flatnonzero(rows < 0)[0])]
            raise StoreError(
                f"{self.path} holds no passage {missing!r} ({int((rows < 0).sum())} of {len(names)} are not there); it was "
                f"made from {self.description.source}"
            )
        return rows

    def tokens(
        self, names: Sequence[str]
    ) -> tuple[npt.NDArray[np.integer[Any]], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the ids of the whole store, and start and true length of each of these passages, int64 [n].

        Passage i is `ids[starts[i]:][:lengths[i]]`. Of a passage longer than `limit` the store holds only the first `limit`
        tokens, or with `truncation_side="left"` the last ones. In the latter case `starts[i]` lies before the first token that
        the store holds. Callers must not read tokens that the store does not hold. Raises StoreError for an id that is not in
        the store, and for damaged files.
        """
        rows = self.rows(names)
        starts, held = self._held(rows)
        # lengths.bin does not count beyond MAX_LENGTH.
        lengths = np.maximum(self._lengths[rows].astype(np.int64), held)
        if self.description.truncation_side == "left":
            starts -= lengths - held
        return self._ids, starts, lengths

    def held(
        self, names: Sequence[str]
    ) -> tuple[npt.NDArray[np.integer[Any]], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the ids of the whole store, and where these passages start in it and how many tokens it holds of each.

        Raises StoreError as `tokens` does.
        """
        starts, held = self._held(self.rows(names))
        return self._ids, starts, held

    def check_whole(self, names: Sequence[str]) -> None:
        """Raise StoreError, naming the first such passage, if the store holds only a part of one of these passages."""
        rows = self.rows(names)
        _, held = self._held(rows)
        lengths = self._lengths[rows]
        # Of a passage of MAX_LENGTH tokens or more, only the limit tells whether tokens were left out.
        part = np.flatnonzero((lengths > held) | ((lengths == MAX_LENGTH) & (held == self.description.limit)))
        if len(part):
            raise StoreError(
                f"{self.path} holds {held[part[0]]} tokens of the passage {names[int(part[0])]!r}, which is longer: windows need "
                "whole passages. Prepare the store again, without --limit"
            )

    def _held(self, rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return where the passages of these rows start in `ids.bin`, and how many tokens it holds of each."""
        starts, ends = (self._starts[each].astype(np.int64) for each in (rows, rows + 1))
        held = ends - starts
        if (
            (starts < 0)
            | (held < np.minimum(self._lengths[rows].astype(np.int64), self.description.limit))
            | (ends > len(self._ids))
        ).any():
            raise StoreError(
                f"{self.path / 'starts.bin'} is damaged: a passage is not within ids.bin; prepare it again"
            )
        return starts, held

    def check(self, tokenizer_sha256: str, *, max_length: int, truncation_side: TruncationSide = "right") -> None:
        """Raise StoreError unless the store fits a model: same tokenizer, same truncation side, enough tokens per passage."""
        if tokenizer_sha256 != self.description.tokenizer_sha256:
            raise StoreError(
                f"{self.path} was prepared with another tokenizer than this model's; prepare it again with this model"
            )
        if truncation_side != self.description.truncation_side:
            raise StoreError(
                f"{self.path} was prepared for models that truncate on the {self.description.truncation_side}, and this "
                f"one truncates on the {truncation_side}; prepare it again with this model"
            )
        if max_length > self.description.limit:
            raise StoreError(
                f"{self.path} keeps {self.description.limit} tokens of a passage, and max_length is {max_length}: give at "
                "most that, or prepare the store again with this model"
            )

    def _rows(self, names: Sequence[str]) -> npt.NDArray[np.int64]:
        width = self.description.name_width
        encoded = [str(name).encode("utf-8", "surrogatepass") for name in names]
        # No stored name is empty, longer than `width`, or contains the zero byte that pads names.
        possible = [len(name) <= width and bool(name) and b"\0" not in name for name in encoded]
        keys = np.array(
            [name.rjust(width, b"\0") if fits else b"" for name, fits in zip(encoded, possible, strict=True)],
            dtype=f"S{width}",
        )
        if self._order is None:
            rows = np.searchsorted(self._names, keys)
        else:
            rows = self._ordered(np.minimum(self._searched(keys), len(self) - 1))
        rows = np.minimum(rows, len(self) - 1)
        return np.where(np.array(possible, dtype=bool) & (self._names[rows] == keys), rows, -1).astype(np.int64)

    def _searched(self, keys: npt.NDArray[np.bytes_]) -> npt.NDArray[np.int64]:
        """Binary search of all keys at once through `order`. np.searchsorted's `sorter` would copy `order` to int64."""
        low = np.zeros(len(keys), dtype=np.int64)
        high = np.full(len(keys), len(self), dtype=np.int64)
        while (low < high).any():
            middle = np.minimum((low + high) // 2, len(self) - 1)
            less = (self._names[self._ordered(middle)] < keys) & (low < high)
            low, high = np.where(less, middle + 1, low), np.where(less | (low >= high), high, middle)
        return low

    def _ordered(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the rows at these places of `order`. A number that is too large, in a damaged file, becomes the last row."""
        assert self._order is not None
        return np.minimum(self._order[places].astype(np.int64), len(self) - 1)

    def _mapped(self, name: str, kind: str) -> npt.NDArray[Any]:
        if not self.description.files.get(name):
            return np.empty(0, dtype=kind)
        try:
            return np.memmap(self.path / name, dtype=kind, mode="r").view(np.ndarray)
        except (OSError, ValueError) as error:
            raise StoreError(f"{self.path / name} cannot be mapped ({error}); prepare the store again") from error

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy maps the files again. Pickling the arrays would copy the whole store.
        return type(self), (self._absolute,)

    def __repr__(self) -> str:
        return f"PassageStore({str(self.path)!r}, {len(self):,} passages)"


def partial_path(store: Path) -> Path:
    """Return the hidden directory in which a store is prepared."""
    store = Path(os.path.realpath(store))
    return store.parent / f".{store.name}.partial"


def _absent(store: Path) -> str:
    if partial_path(store).is_dir():
        return (
            f"{store} is not finished: it is being prepared, or that was interrupted; run the same `crossrt prepare` to go "
            "on from where it is"
        )
    given = shlex.quote(str(store))
    return f"{store} is not a store of prepared passages; make one with: crossrt prepare MODEL PASSAGES.tsv {given}"
